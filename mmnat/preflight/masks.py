"""Segmentations of annotations in COCO format, as mmdet and pycocotools read them."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from pycocotools import mask as coco_mask

from mmnat.errors import brief

# No image is so wide; beyond a multiple of it, pycocotools' numbers overflow.
_FARTHEST = 1e7
_MARGIN = 100  # pixels by which a polygon may leave a small image
_MOST_BITS = 60  # of a run

REMEDY = 'write a list of polygons [[x1, y1, x2, y2, x3, y3, ...], ...] or a run-length encoding'


def mask_loader(dataset: BaseDataset) -> BaseTransform | None:
    """Return the transform of the pipeline that loads masks; None if masks are not loaded."""
    from mmdet.datasets.transforms import LoadAnnotations

    transforms = getattr(dataset.pipeline, 'transforms', ())
    return next((t for t in transforms if isinstance(t, LoadAnnotations) and t.with_mask), None)


def find_fault(segmentation: Any, size: Sequence[float]) -> str | None:
    """Find out why a segmentation cannot be loaded.

    Args:
        segmentation: What an annotation has; None if nothing.
        size: Height and width of the image.

    Returns:
        What is wrong, to follow the words "the segmentation"; None if it can be loaded.
    """
    if not segmentation:
        return 'is missing or empty'
    if isinstance(segmentation, list):
        if not all(isinstance(polygon, list) for polygon in segmentation):
            return 'is not a list of lists'
        faults = (find_polygon_fault(polygon, size) for polygon in segmentation)
        return next((fault for fault in faults if fault), None)
    if not isinstance(segmentation, dict):
        return f'is a {type(segmentation).__name__}'
    if not _is_encoded(segmentation):
        return None  # mmdet ignores the object
    if list(segmentation['size']) != list(size):
        return f'has the size {brief(segmentation["size"])}, but the image is of {list(size)}'
    return find_run_fault(segmentation['counts'], int(size[0] * size[1]))


def find_polygon_fault(polygon: list, size: Sequence[float]) -> str | None:
    """Find out why pycocotools cannot draw a polygon: it trusts the numbers, and may crash.

    Args:
        polygon: The coordinates.
        size: Height and width of the image.

    Returns:
        What is wrong, to follow the words "the segmentation"; None if it can be drawn.
    """
    if not {*map(type, polygon)} <= {int, float}:
        return 'has values that are not numbers'
    least, most = min(polygon, default=0), max(polygon, default=0)
    # Not NaN, either. Huge integers are no floats, with which they cannot be added.
    if not (-math.inf < least and most < math.inf):
        return 'has values that are not numbers'
    if not (least > -_FARTHEST and most < _FARTHEST):
        return f'has points further away than {_FARTHEST:.0e} pixels'
    if not math.isfinite(sum(polygon)):
        return 'has values that are not numbers'
    # It takes memory for each step along the outline, which around pixels has at most four a pixel.
    longest = 4 * (size[0] + _MARGIN) * (size[1] + _MARGIN)
    if (most - least) * len(polygon) / 2 > longest:  # a quick bound
        points = np.array(polygon[: len(polygon) // 2 * 2], float).reshape(-1, 2)
        if np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() > longest:
            return 'has an outline that is far longer than one in its image could be'
    return None


def find_run_fault(counts: Any, pixels: int) -> str | None:
    """Find out why pycocotools cannot decode a run-length encoding: it trusts the runs, and may never end.

    Args:
        counts: The runs, as a list or as pycocotools' string.
        pixels: The number of pixels of the image.

    Returns:
        What is wrong, to follow the words "the segmentation"; None if it can be decoded.
    """
    if isinstance(counts, list):
        if not {*map(type, counts)} <= {int, float}:
            return 'has counts that are not numbers'
        if not all(0 <= count <= pixels for count in counts):
            return 'has counts that are not numbers of pixels'
        if any(count != int(count) for count in counts):
            return 'has counts that are not whole numbers'
        total = int(sum(counts))
    else:
        runs = _runs(counts)
        if runs is None or min(runs, default=0) < 0:
            return f'has counts that are no run-length encoding: {brief(counts)}'
        total = sum(runs)
    return None if total == pixels else f'has counts of {total} pixels for an image of {pixels}'


def _runs(text: str) -> list[int] | None:
    """The runs in pycocotools' string, by its rleFrString; None if it is none."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > _MOST_BITS:
            return None
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        # From the third on, they are differences from the last but one.
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if shift == 0 else None


def find_evaluation_fault(segmentation: Any, size: Sequence[float]) -> str | None:
    """Find out why pycocotools cannot compare masks with a segmentation, as :func:`find_fault` does."""
    fault = find_fault(segmentation, size)
    if fault is not None:
        return fault
    if isinstance(segmentation, dict):
        return None if _is_encoded(segmentation) else 'lacks counts or size'
    # pycocotools takes the kind of all from the first, and four numbers for a box.
    return 'begins with a polygon of fewer than three points' if len(segmentation[0]) < 5 else None


def is_learned(segmentation: Any, poly2mask: bool) -> bool:
    """Tell whether mmdet's LoadAnnotations takes the object, rather than ignoring it.

    Args:
        segmentation: A segmentation without a fault.
        poly2mask: The argument of LoadAnnotations.
    """
    if isinstance(segmentation, list):
        return any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation)
    return poly2mask and isinstance(segmentation, dict) and _is_encoded(segmentation)


def misses_box(segmentation: Any, bbox: Sequence[float]) -> bool:
    """Tell whether nothing of a segmentation that is learned reaches into the box of the object."""
    left, top, width, height = bbox
    return not any(
        x2 >= left and x1 <= left + width and y2 >= top and y1 <= top + height
        for x1, y1, x2, y2 in _extents(segmentation)
    )


def _extents(segmentation: Any) -> Iterator[tuple[float, float, float, float]]:
    """The corners of what each polygon, or the run-length encoding, covers."""
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if len(polygon) >= 2:
                xs, ys = polygon[::2], polygon[1::2]
                yield min(xs), min(ys), max(xs), max(ys)
        return
    encoded = segmentation
    if isinstance(encoded['counts'], list):
        encoded = coco_mask.frPyObjects(encoded, *encoded['size'])
    x, y, width, height = coco_mask.toBbox(encoded)
    if width and height:
        yield x, y, x + width, y + height


def _is_encoded(segmentation: dict) -> bool:
    return isinstance(segmentation.get('counts'), (list, str)) and isinstance(
        segmentation.get('size'), list
    )
