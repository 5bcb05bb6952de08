"""Label maps of semantic segmentation: their sizes, what their pixels are, and the classes in them."""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.dataset import BaseDataset
from PIL import Image

from mmnat.errors import UserError, abbreviate, warn

from .image_headers import TRANSPOSED, read_header
from .samples import in_time

# How long the files of a data set are looked at. Those that are left out are spread over the whole set.
HEADER_SECONDS = 20.0
VALUE_SECONDS = 10.0

_AS_STORED = "color_type='color_ignore_orientation' in LoadImageFromFile of all pipelines"
# What the loader keeps of them by wrapping around is 255, which is ignored: they were meant so.
_WIDE_IGNORED = (-1, 65535)
# Transforms after which it does not matter that a label map was smaller than its image.
_RESIZES = ('Resize', 'RandomResize', 'RandomChoiceResize')


def check_label_maps(dataset: BaseDataset, samples: Sequence[dict], field: str) -> set[int]:
    """Check label maps: the headers of all, and the values of as many as there is time for.

    Args:
        dataset: The data set. Nothing is checked if it has a loader of its own.
        samples: Its images and label maps, which exist.
        field: Where the data set is in the config.

    Returns:
        The values of the label maps that were looked at, as mmseg loads them.

    Raises:
        UserError: If a label map is of another size than its image, in colour or of more than 8 bits, or
            has a value that is no class.
    """
    from mmseg.datasets.transforms import LoadAnnotations

    transforms = dataset.pipeline.transforms
    load = next((t for t in transforms if type(t) is LoadAnnotations), None)
    if load is None or not samples:
        return set()
    _check_headers(dataset, load, samples, field)
    if dataset.metainfo.get('classes') is None:
        return set()
    return _check_values(dataset, load, samples, field)


def _count(looked_at: int, total: int) -> str:
    return f'{total} label maps' if looked_at == total else f'{looked_at} label maps looked at, of {total},'


# Headers --------------------------------------------------------------------


class _Difference(Enum):
    SIZE = 'another size'
    TURNED = 'the size of the image before it was turned'
    UNKNOWN = 'none, but the size does not tell whether the label map is turned like the image'


def _check_headers(dataset: BaseDataset, load: BaseTransform, samples: Sequence[dict], field: str) -> None:
    transforms = dataset.pipeline.transforms
    load_image = next((t for t in transforms if type(t) is LoadImageFromFile), None)
    may_be_scaled = _is_resized_next(transforms, load)
    colours: list[str] = []
    differences: dict[_Difference, list[str]] = {kind: [] for kind in _Difference}
    looked_at = 0
    for sample in in_time(samples, HEADER_SECONDS):
        looked_at += 1
        header = read_header(sample['seg_map_path'])
        if header is None:
            _load(load, sample, field)  # says so, unless it has another decoder
            continue
        if load.imdecode_backend == 'pillow' and Image.getmodebands(header.mode) > 1:
            colours.append(f'{sample["seg_map_path"]} ({header.mode})')
        if load_image is not None:
            difference = _difference(load_image, sample, header.size, may_be_scaled)
            if difference is not None:
                kind, text = difference
                differences[kind].append(text)
    count = _count(looked_at, len(samples))
    others, turned, unknown = differences.values()
    if colours:
        raise UserError(
            f'{field}: {len(colours)} of {count} are in colour: {abbreviate(colours, 3)}',
            'store the index of one class a pixel in a single channel, as a grey or palette PNG',
        )
    if others:
        raise UserError(
            f'{field}: {len(others)} of {count} have not the size of their image: {abbreviate(others, 3)}',
            'make them in the size of the images, or resize them without interpolation (nearest)',
        )
    if turned:
        raise UserError(
            f'{field}: {len(turned)} of {count} are not turned, but their images are, by the EXIF '
            f'orientation: {abbreviate(turned, 3)}',
            f'set {_AS_STORED}, or turn the label maps',
        )
    if unknown:
        warn(
            f'{field}: the images of {len(unknown)} of {count} are turned by their EXIF orientation when '
            f'they are loaded ({abbreviate(unknown, 3)}); if their label maps are not, set {_AS_STORED}'
        )


def _difference(
    load_image: BaseTransform, sample: dict, size: tuple[int, int], may_be_scaled: bool
) -> tuple[_Difference, str] | None:
    """Compare the size of a label map with that of its image.

    Returns:
        How they differ, and a text that says so; None if they do not.
    """
    image = read_header(sample['img_path'])
    if image is None:
        return None
    may_be_turned = image.orientation > 1 and load_image.color_type in ('color', 'grayscale')
    width, height = image.size
    if image.size != size or image.orientation in TRANSPOSED:
        # Only the loader knows what becomes of the image. Few need it.
        height, width = load_image(dict(sample))['img'].shape[:2]
    if size == (width, height):
        # As large before it is turned as after it: upside down, mirrored, or a square.
        is_unknown = may_be_turned and image.size == size
        return (_Difference.UNKNOWN, sample['img_path']) if is_unknown else None
    if may_be_scaled and size[0] * height == size[1] * width:
        return None
    text = f'{sample["seg_map_path"]} is {size[0]}x{size[1]}, {sample["img_path"]} {width}x{height}'
    return (_Difference.TURNED if image.size == size else _Difference.SIZE), text


def _is_resized_next(transforms: Sequence[Any], load: BaseTransform) -> bool:
    """Whether image and label map are resized to one size before anything else happens to them."""
    after = list(transforms)[list(transforms).index(load) + 1 :]
    return bool(after) and type(after[0]).__name__ in _RESIZES


# Values ---------------------------------------------------------------------


def _check_values(
    dataset: BaseDataset, load: BaseTransform, samples: Sequence[dict], field: str
) -> set[int]:
    classes, ignored = dataset.metainfo['classes'], dataset.ignore_index
    allowed = {*range(len(classes)), ignored}
    found: set[int] = set()
    looked_at = 0
    for sample in in_time(samples, VALUE_SECONDS):
        looked_at += 1
        values = _values(load, sample, field)
        beyond = sorted(values - allowed)
        if beyond:
            raise _beyond(sample['seg_map_path'], beyond, dataset, field)
        found |= values
    count = _count(looked_at, len(samples))
    if found == {ignored}:
        raise UserError(
            f'{field}: in {count} every pixel is {ignored}, which is ignored',
            'correct the label maps or reduce_zero_label',
        )
    if len(classes) == 2 and found == {0, ignored}:
        raise UserError(
            f'{field}: {count} have only the values 0 and {ignored}, and {ignored} is ignored: '
            f'no pixel is of class {classes[1]!r}',
            f'store 1 for it instead of {ignored}',
        )
    absent = [name for index, name in enumerate(classes) if index not in found]
    # The parts of a ConcatDataset need not have all classes each.
    if absent and field.startswith('train') and '.datasets[' not in field:
        warn(
            f'{field}: {len(absent)} of {len(classes)} classes are in none of {count} and cannot be '
            f'learned: {abbreviate(absent)}'
        )
    return found


def _values(load: BaseTransform, sample: dict, field: str) -> set[int]:
    """The values of a label map as mmseg loads it."""
    path = sample['seg_map_path']
    labels = _load(load, sample, field)
    if labels.ndim < 2:
        raise UserError(
            f'{field}: label map {path} has a side of one pixel, which mmseg cannot load',
            'leave the image out',
        )
    if labels.ndim != 2:
        raise UserError(
            f'{field}: label map {path} has shape {labels.shape}',
            'store the index of one class a pixel in a single channel, as a grey or palette PNG',
        )
    if load.imdecode_backend == 'pillow':
        _check_depth(path, field)
    is_there = np.zeros(256, bool)  # faster than np.unique
    is_there[labels] = True
    return set(np.flatnonzero(is_there).tolist())


def _check_depth(path: str, field: str) -> None:
    """Reject values of more than 8 bits: mmseg keeps only the last 8."""
    with Image.open(path) as image:
        if image.mode not in ('I', 'F') and not image.mode.startswith('I;'):
            return
        values = np.unique(np.asarray(image))
    beyond = [value for value in values.tolist() if not 0 <= value <= 255 and value not in _WIDE_IGNORED]
    if beyond:
        raise UserError(
            f'{field}: label map {path} has the values {abbreviate(beyond)}; mmseg keeps 8 bits of them',
            'store the indices of classes, in 8 bits a pixel',
        )


def _beyond(path: str, beyond: list[int], dataset: BaseDataset, field: str) -> UserError:
    remedy = 'correct metainfo.classes, reduce_zero_label or the label maps'
    if path.lower().endswith(('.jpg', '.jpeg')):
        remedy = 'store label maps as PNG, for JPEG changes the values'
    return UserError(
        f'{field}: label map {path} has the values {abbreviate(beyond)} beyond the '
        f'{len(dataset.metainfo["classes"])} classes of metainfo (ignored: {dataset.ignore_index})',
        remedy,
    )


def _load(load: BaseTransform, sample: dict, field: str) -> np.ndarray:
    try:
        return load({**sample, 'seg_fields': []})['gt_seg_map']
    except Exception as error:  # every decoder raises others
        path = sample['seg_map_path']
        raise UserError(f'{field}: label map {path} cannot be decoded', 'replace the file') from error
