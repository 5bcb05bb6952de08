"""What a run writes beside checkpoints: its log, and pictures. If the disk is full, the run says so.

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
from mmengine.visualization import LocalVisBackend
from mmengine.visualization.vis_backend import force_init_env


def end_if_refused() -> None:
    """Make the runs of this process end with the system's error if it refuses a log or a picture."""
    LocalVisBackend.add_image = _add_image
    logging.FileHandler.handleError = _raise  # type: ignore[assignment, method-assign]


@force_init_env
def _add_image(self: Any, name: str, image: np.ndarray, step: int = 0, **_: Any) -> None:
    """Write an RGB picture, complete or not at all."""
    content = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    put(content.tobytes(), osp.join(self._img_save_dir, f'{name}_{step}.png'))


def _raise(handler: logging.Handler, record: logging.LogRecord) -> None:
    """Take the place of ``handleError``, which logging calls where it handles an error."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        raise OSError(error.errno, error.strerror, getattr(handler, 'baseFilename', None)) from error
    logging.Handler.handleError(handler, record)
