"""What a run writes beside checkpoints: its log, and pictures. If the disk is full, the run ends and says so.

Python's logging prints a traceback for each line that it cannot write, and goes on. OpenCV returns False,
and mmengine does not look.
"""

import logging
import os.path as osp
import sys
from typing import Any

import cv2
import numpy as np
from mmengine.fileio import put
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend
from mmengine.visualization.vis_backend import force_init_env


class AtomicVisBackend(LocalVisBackend):
    """mmengine's backend, whose pictures appear complete, or the system's error ends the run."""

    _img_save_dir: str  # mmengine does not declare it

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **_: Any) -> None:
        """Write a picture.

        Args:
            name: Its name.
            image: RGB, in bytes.
            step: A number, which follows the name.
        """
        _, content = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        put(content.tobytes(), osp.join(self._img_save_dir, f'{name}_{step}.png'))


def end_if_refused() -> None:
    """Make the runs of this process end with the system's error if it refuses to write a log or a picture."""
    VISBACKENDS.register_module(name='LocalVisBackend', module=AtomicVisBackend, force=True)
    logging.FileHandler.handleError = _raise  # type: ignore[method-assign]


def _raise(handler: logging.Handler, record: logging.LogRecord) -> None:
    """Take the place of ``handleError``, which logging calls where it handles an error."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        raise OSError(error.errno, error.strerror, getattr(handler, 'baseFilename', None)) from error
    logging.Handler.handleError(handler, record)
