"""Checks that image files can be decoded."""

import os
import os.path as osp
from collections.abc import Sequence

import cv2
import mmcv
from mmengine.dataset import BaseDataset
from PIL import Image, UnidentifiedImageError

from mmnat.errors import UserError, abbreviate, warn

from .image_headers import TRANSPOSED, Header, read_header
from .samples import some
from .similar import similar_file

# The number of images of a data set that are opened before a run. If one of the others does not load, the
# run ends when it reaches that image, see `report_user_errors`.
MAX_OPENED = 2000
# Formats whose headers Pillow checks and that OpenCV decodes.
_TRUSTED = ('JPEG', 'MPO', 'PNG', 'BMP', 'TIFF', 'WEBP', 'PPM')
# Public data sets have single images whose size differs; this part of them spoils no training.
_FEW = 0.01
_TAIL = 65536  # bytes in which the mark of a JPEG's end is looked for
# As many images of 16 bits are looked at, whose brightest pixel is below this value of 255 if a camera used
# 12 of the 16 bits or fewer.
_MOST_WIDE, _DARK = 20, 16


def check_image(path: str) -> None:
    """Raise :class:`UserError` if a file does not exist or mmcv cannot decode it."""
    if not osp.isfile(path):
        raise UserError(f'image {path} does not exist', 'check the path')
    if not _decodes(path):
        raise UserError(f'image {path} cannot be decoded', 'replace the file, or leave it out')


def check_dataset_images(paths: Sequence[str], field: str) -> None:
    """Check that the images of a data set, or a sample of them, exist and have sound headers.

    Args:
        paths: The image files.
        field: Where the data set is in the config.
    """
    total, paths = len(paths), some(paths, MAX_OPENED)
    count = _count(len(paths), total)
    missing = [path for path in paths if not osp.isfile(path)]
    if missing:
        raise UserError(
            f'{field}: {len(missing)} of {count} do not exist: {abbreviate(missing, 3)}'
            f'{similar_file(missing[0])}',
            'correct the name, write / instead of the backslash'
            if '\\' in missing[0] and os.sep == '/'
            else 'correct data_root or data_prefix, or restore the files',
        )
    # Decoding is slow: only the files that Pillow doubts are decoded.
    _reject([path for path in paths if not _is_sound(path) and not _is_whole(path)], field, count)
    _check_brightness(paths, field, count)


def check_image_sizes(
    images: Sequence[tuple[str, tuple[float, float]]], dataset: BaseDataset, field: str
) -> None:
    """Compare the sizes of images, or of a sample of them, with those in the annotations.

    Args:
        images: The image files, each with width and height in the annotations.
        dataset: The data set, whose pipeline tells whether images are turned by their EXIF orientation.
        field: Where the data set is in the config.

    Raises:
        UserError: If sizes differ in more than a hundredth of the images; few are a warning.
    """
    turns = _turns(dataset)
    total, images = len(images), some(images, MAX_OPENED)
    wrong: list[str] = []
    turned: list[str] = []
    ambiguous: list[str] = []
    for path, expected in images:
        header = read_header(path)
        if header is None:
            continue
        size = _loaded_size(path, header) if turns else header.size
        if size != expected:
            text = f'{path} is {_times(size)}, not {_times(expected)}'
            (turned if header.size == expected else wrong).append(text)
        elif turns and header.orientation != 1 and header.size == size:
            ambiguous.append(path)
    count = _count(len(images), total)
    if wrong:
        _report(
            len(wrong) / len(images),
            f'{field}: {len(wrong)} of {count} have another size than width and height in '
            f'{dataset.ann_file} say: {abbreviate(wrong, 3)}',
            'correct width and height, or scale the boxes and masks if the images were resized',
        )
    if turned:
        _report(
            len(turned) / len(images),
            f'{field}: {len(turned)} of {count} are turned by their EXIF orientation, but '
            f'{dataset.ann_file} describes them as they are stored: {abbreviate(turned, 3)}',
            "set color_type='color_ignore_orientation' in LoadImageFromFile of all pipelines, or annotate "
            'the images as they are shown',
        )
    if ambiguous:
        warn(
            f'{field}: {len(ambiguous)} of {count} are turned by their EXIF orientation when they are '
            f'loaded ({abbreviate(ambiguous, 3)}); if they were annotated as they are stored, set '
            "color_type='color_ignore_orientation' in LoadImageFromFile of all pipelines"
        )


def _report(share: float, problem: str, remedy: str) -> None:
    if share > _FEW:
        raise UserError(problem, remedy)
    warn(f'{problem}; {remedy}')


def _count(looked_at: int, total: int) -> str:
    if looked_at == total:
        return f'{total} images'
    return f'{looked_at} images that were looked at, spread over all {total},'


def _times(size: tuple[float, float]) -> str:
    return f'{size[0]:.0f}x{size[1]:.0f}'


def _turns(dataset: BaseDataset) -> bool:
    """Tell whether images are turned by their EXIF orientation when they are loaded."""
    for transform in getattr(dataset.pipeline, 'transforms', ()):
        flag = getattr(transform, 'color_type', None)
        if flag is not None:
            ignores = flag == 'unchanged' or flag.endswith('_ignore_orientation')
            backend = getattr(transform, 'imdecode_backend', 'cv2')
            return not ignores and backend not in ('turbojpeg', 'tifffile')
    return True


def _loaded_size(path: str, header: Header) -> tuple[int, int]:
    """Width and height that mmcv returns."""
    if header.orientation not in TRANSPOSED:
        return header.size
    if header.kind in ('JPEG', 'MPO'):
        return header.size[1], header.size[0]
    # Whether OpenCV reads the orientation in other formats depends on its version.
    image = mmcv.imread(path)
    return header.size if image is None else (image.shape[1], image.shape[0])


def _reject(broken: Sequence[str], field: str, count: str) -> None:
    if broken:
        raise UserError(
            f'{field}: {len(broken)} of {count} cannot be decoded: {abbreviate(broken, 3)}',
            'replace the files, or remove them from the data set',
        )


def _check_brightness(paths: Sequence[str], field: str, count: str) -> None:
    """Warn if images of 16 bits become nearly black: OpenCV keeps the upper 8 bits."""
    wide = [path for path in paths if (header := read_header(path)) and header.mode.startswith('I')]
    images = {path: mmcv.imread(path) for path in some(wide, _MOST_WIDE)}
    _reject([path for path, image in images.items() if image is None], field, count)
    if images and max(image.max() for image in images.values()) < _DARK:
        warn(
            f'{field}: {len(wide)} of {len(paths)} images have 16 bits and are nearly black once they are '
            f'loaded, for OpenCV keeps the upper 8 bits ({abbreviate(wide, 3)}); scale the values to '
            '0..65535, or save the images with 8 bits'
        )


def _is_sound(path: str) -> bool:
    """Whether Pillow finds no fault in the header, nor at the end."""
    try:
        with Image.open(path) as image:
            image.verify()
            is_jpeg = image.format in ('JPEG', 'MPO')
            return image.format in _TRUSTED and not (is_jpeg and _lacks_end(path))
    except Exception:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        return False


def _lacks_end(path: str) -> bool:
    """Whether a JPEG has no mark of its end near its end; programs may append data of their own."""
    with open(path, 'rb') as file:
        file.seek(max(0, osp.getsize(path) - _TAIL))
        return b'\xff\xd9' not in file.read()


def _is_whole(path: str) -> bool:
    """Whether OpenCV decodes a file, and Pillow, if it knows the format, finds all of it."""
    if not _decodes(path):
        return False
    try:
        with Image.open(path) as image:
            image.load()
    except UnidentifiedImageError:
        return True
    except Exception as error:
        return 'truncated' not in str(error)
    return True


def _decodes(path: str) -> bool:
    try:
        return mmcv.imread(path) is not None
    except (OSError, cv2.error):  # OpenCV raises on an empty file
        return False
