"""Checks that image files can be decoded."""

import os.path as osp
from collections.abc import Sequence

import cv2
import mmcv
from PIL import Image

from mmnat.errors import UserError, abbreviate

# The number of images of a data set that are opened before a run. If one of the others does not load, the
# run ends when it reaches that image, see `report_user_errors`.
MAX_OPENED = 2000


def check_image(path: str) -> None:
    """Raise :class:`UserError` if a file does not exist or mmcv cannot decode it."""
    if not osp.isfile(path):
        raise UserError(f'image {path} does not exist', 'check the path')
    if not _decodes(path):
        raise UserError(f'image {path} cannot be decoded', 'replace the file, or leave it out')


def check_dataset_images(paths: Sequence[str], field: str) -> None:
    """Check that the first images of a data set exist and have sound headers.

    Args:
        paths: The image files.
        field: Where the data set is in the config.
    """
    paths = paths[:MAX_OPENED]
    missing = [path for path in paths if not osp.isfile(path)]
    if missing:
        raise UserError(
            f'{field}: {len(missing)} of {len(paths)} images do not exist: {abbreviate(missing, 3)}',
            'correct data_root or data_prefix, or restore the files',
        )
    # Decoding is slow: only the files that Pillow doubts are decoded.
    broken = [path for path in paths if not _header_is_sound(path) and not _decodes(path)]
    if broken:
        raise UserError(
            f'{field}: {len(broken)} of {len(paths)} images cannot be decoded: {abbreviate(broken, 3)}',
            'replace the files, or remove them from the data set',
        )


def _header_is_sound(path: str) -> bool:
    try:
        with Image.open(path) as image:
            image.verify()
    except Exception:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        return False
    return True


def _decodes(path: str) -> bool:
    try:
        return mmcv.imread(path) is not None
    except (OSError, cv2.error):  # OpenCV raises on an empty file
        return False
