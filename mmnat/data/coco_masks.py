"""The masks of annotations in COCO format."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mmnat.errors import brief
from mmnat.preflight.masks import find_polygon_fault, find_run_fault

LEAST_NUMBERS = 6  # of a polygon: three points. What has fewer covers nothing, and mmdet leaves it out.


class NoMask(ValueError):
    """What an annotation has instead of a mask. The message goes on after its name: ``has no mask``."""


def encode_mask(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Encode the mask of an annotation, which takes little memory until it is decoded.

    Args:
        segmentation: Polygons or a run-length encoding, compressed or not.
        height: The height of the image.
        width: The width of the image.

    Returns:
        The mask as a compressed run-length encoding of pycocotools. It is empty if no polygon has three points.

    Raises:
        NoMask: If it is none of these, or a run-length encoding for another size.
    """
    if not segmentation:
        raise NoMask('has no mask')
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if not _covers_nothing(polygon, (height, width))]
        if not polygons:
            return coco_mask.encode(np.zeros((height, width), np.uint8, order='F'))
        return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    if isinstance(segmentation, dict):
        return _encode_runs(segmentation, height, width)
    raise NoMask(f'has the mask {brief(segmentation)}')


def has_flat_polygon(segmentation: Any) -> bool:
    """Whether a polygon has fewer than three points."""
    return isinstance(segmentation, list) and any(
        isinstance(polygon, list) and len(polygon) < LEAST_NUMBERS for polygon in segmentation
    )


def _covers_nothing(polygon: Any, size: tuple[int, int]) -> bool:
    """Whether a polygon has fewer than three points; raises NoMask if it is none."""
    if not isinstance(polygon, list):
        raise NoMask('has a mask that is no list of polygons [[x, y, x, y, ...], ...]')
    if len(polygon) % 2:
        raise NoMask(f'has a polygon of {len(polygon)} numbers, an odd count')
    fault = find_polygon_fault(polygon, size)
    if fault:
        raise NoMask(fault)
    return len(polygon) < LEAST_NUMBERS


def _encode_runs(runs: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = runs.get('size'), runs.get('counts')
    if not isinstance(size, list) or size != [height, width]:
        raise NoMask(
            f'has a mask of [height, width] = {brief(size)}, but its image has [{height}, {width}]'
        )
    if not isinstance(counts, (list, str)):
        raise NoMask(f'has a mask with counts = {brief(counts)}')
    fault = find_run_fault(counts, height * width)
    if fault:
        raise NoMask(fault)
    if isinstance(counts, list):
        return coco_mask.frPyObjects(dict(size=[height, width], counts=counts), height, width)
    return dict(size=[height, width], counts=counts.encode())
