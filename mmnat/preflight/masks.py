"""Segmentations of annotations in COCO format, as mmdet and pycocotools read them."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from pycocotools import mask as coco_mask

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
        if not all(_are_finite(polygon) for polygon in segmentation):
            return 'has values that are not numbers'
        return None
    if not isinstance(segmentation, dict):
        return f'is a {type(segmentation).__name__}'
    if not _is_encoded(segmentation):
        return None  # mmdet ignores the object
    if list(segmentation['size']) != list(size):
        return f'has the size {segmentation["size"]}, but the image is of {list(size)}'
    counts = segmentation['counts']
    if isinstance(counts, list) and not _are_finite(counts):
        return 'has counts that are not numbers'
    lengths = counts if isinstance(counts, list) else _decompress(counts)
    if lengths is None or min(lengths, default=0) < 0:
        return 'has counts that are no run lengths'
    if sum(lengths) != size[0] * size[1]:
        return f'has counts of {sum(lengths)} pixels for an image of {size[0] * size[1]:.0f}'
    return None


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


def _decompress(counts: str) -> list[int] | None:
    """The run lengths in a compressed encoding; None if it is none.

    pycocotools has no function that returns them, and finds a fault only by decoding every pixel.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return None
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:  # more of this number follows
            continue
        if code & 0x10:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return None if shift else lengths


def _is_encoded(segmentation: dict) -> bool:
    return isinstance(segmentation.get('counts'), (list, str)) and isinstance(
        segmentation.get('size'), list
    )


def _are_finite(values: Sequence) -> bool:
    return {*map(type, values)} <= {int, float} and math.isfinite(sum(values))
