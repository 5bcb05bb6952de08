"""Segmentations: what is found agrees with what mmdet and pycocotools do."""

import numpy as np
import pytest

pytest.importorskip('mmdet')

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mmdet.datasets.transforms import LoadAnnotations
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmnat.preflight.masks import find_evaluation_fault, find_fault, is_learned, misses_box

HEIGHT, WIDTH = SIZE = (12, 16)
SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]
RLE = coco_mask.encode(np.asfortranarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8)))
RLE['counts'] = RLE['counts'].decode()

polygons = st.one_of(
    st.just(SQUARE), st.lists(st.integers(0, 12), max_size=9), st.lists(st.floats(0, 12), max_size=8)
)
counts = st.one_of(
    st.just([HEIGHT * WIDTH]), st.just([100, 92]), st.just([100, 90]), st.just(RLE['counts']), st.none()
)
encodings = st.fixed_dictionaries(
    dict(counts=counts), optional=dict(size=st.sampled_from([[12, 16], [16, 12]]))
)
segmentations = st.one_of(
    st.none(), st.just([]), st.lists(polygons, max_size=3), encodings, polygons, st.just('[[1, 2]]')
)


def load(segmentation, poly2mask):
    """What mmdet does; returns whether it ignores the object."""
    instance = dict(ignore_flag=0)
    if segmentation:
        instance['mask'] = segmentation
    results = dict(instances=[instance], ori_shape=SIZE)
    LoadAnnotations(with_bbox=False, with_mask=True, poly2mask=poly2mask)._load_masks(results)
    return bool(results['gt_ignore_flags'][0])


@settings(max_examples=300, deadline=None)
@given(segmentations, st.booleans())
def test_faults_are_those_of_mmdet(segmentation, poly2mask):
    if find_fault(segmentation, SIZE) is None:
        assert load(segmentation, poly2mask) is not is_learned(segmentation, poly2mask)


@pytest.mark.parametrize(
    ('segmentation', 'expected'),
    [
        (None, 'is missing or empty'),
        ([], 'is missing or empty'),
        (SQUARE, 'is not a list of lists'),
        ([[{'x': 1, 'y': 2}] * 6], 'has values that are not numbers'),
        ('[[1, 2, 3]]', 'is a str'),
        (dict(RLE, size=[10, 10]), 'has the size [10, 10], but the image is of [12, 16]'),
    ],
)
def test_faults_stop_mmdet(segmentation, expected):
    assert find_fault(segmentation, SIZE) == find_evaluation_fault(segmentation, SIZE) == expected
    with pytest.raises((KeyError, TypeError, ValueError)):
        load(segmentation, poly2mask=True)


def test_size_of_a_turned_image():
    # mmdet reshapes the mask, which makes another one of it.
    turned = dict(RLE, size=[WIDTH, HEIGHT])
    assert find_fault(turned, SIZE) == 'has the size [16, 12], but the image is of [12, 16]'
    assert load(turned, poly2mask=True) is False


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_coordinates_that_are_not_finite(value):
    assert find_fault([[1, 2, value, 4, 5, 6]], SIZE) == 'has values that are not numbers'


def test_counts_of_another_number_of_pixels():
    fault = find_fault({'counts': [100, 50], 'size': [12, 16]}, SIZE)
    assert fault == 'has counts of 150 pixels for an image of 192'
    assert (
        find_fault({'counts': ['100', '92'], 'size': [12, 16]}, SIZE) == 'has counts that are not numbers'
    )


@settings(max_examples=300, deadline=None)
@given(segmentations)
def test_what_pycocotools_evaluates(segmentation):
    coco = COCO()
    coco.imgs = {1: dict(height=HEIGHT, width=WIDTH)}
    try:
        area = int(coco_mask.area(coco.annToRLE(dict(image_id=1, segmentation=segmentation))))
    except Exception:
        area = None
    if find_evaluation_fault(segmentation, SIZE) is None:
        assert area is not None
    elif find_fault(segmentation, SIZE) is None:
        assert area is None


def test_sizes_may_be_floats_that_are_whole():
    for segmentation in ([SQUARE], RLE, {'counts': [100, 92], 'size': [12, 16]}):
        assert find_evaluation_fault(segmentation, (12.0, 16.0)) is None


def test_masks_outside_their_box():
    assert misses_box([SQUARE], [20, 20, 10, 10])
    assert misses_box([[value / 16 for value in SQUARE]], [2, 2, 6, 6])
    assert not misses_box([SQUARE], [2, 2, 6, 6])
    assert not misses_box([[0, 0, 1, 0, 1, 1], SQUARE], [4, 4, 20, 20])
    for encoded in (RLE, dict(size=[HEIGHT, WIDTH], counts=[0, 1, HEIGHT * WIDTH - 1])):
        assert misses_box(encoded, [100, 100, 2, 2])
        assert not misses_box(encoded, [0, 0, 2, 2])


@given(
    masks=arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1)),
    cut=st.integers(0, 5),
)
def test_compressed_run_lengths(masks, cut):
    encoded = coco_mask.encode(np.asfortranarray(masks))
    counts = encoded['counts'][: len(encoded['counts']) - cut]
    fault = find_fault(dict(size=encoded['size'], counts=counts.decode()), masks.shape)
    assert cut or fault is None
    if fault is None:  # pycocotools reads and writes beyond its memory otherwise
        assert coco_mask.decode(dict(encoded, counts=counts)).shape == masks.shape
