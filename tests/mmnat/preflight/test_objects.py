"""What a data set in COCO format consists of: found as mmdet finds it, and reported."""

import json

import pytest

pytest.importorskip('mmdet')

from coco_split import CLASSES, SIZE, edited, write_coco, write_images
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset
from mmdet.utils import register_all_modules
from torch import nn

from mmnat import errors
from mmnat.errors import UserError
from mmnat.preflight.objects import check_training_objects, find_reason, read_split

BOXES = (
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
)
MASKS = (
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'instances')),
)
LEFT = 'warning: data: mmdet drops '


@pytest.fixture(autouse=True, scope='module')
def registered():
    register_all_modules()


@pytest.fixture(autouse=True)
def forget_warnings():
    errors.warn.cache_clear()


@pytest.fixture
def read(tmp_path):
    """Reads a split of an edited data set."""
    write_images(tmp_path / 'images')

    def read(edit=lambda coco: None, pipeline=BOXES, kind=CocoDataset, **options):
        write_coco(tmp_path / 'a.json', edited(edit))
        options = dict(metainfo=dict(classes=CLASSES), ann_file='a.json') | options
        dataset = kind(
            data_root=str(tmp_path),
            data_prefix=dict(img='images'),
            pipeline=list(pipeline),
            lazy_init=True,
            **options,
        )
        return read_split(dataset, 'data')

    return read


def every(**values):
    """An edit that sets values in all annotations; None removes one."""

    def edit(coco):
        for annotation in coco['annotations']:
            annotation.update(values)
            for name in [name for name, value in values.items() if value is None]:
                del annotation[name]

    return edit


def refused(read, *args, **kwargs):
    with pytest.raises(UserError) as error:
        read(*args, **kwargs)
    return str(error.value)


def train(*splits, model=None):
    check_training_objects(splits, 'train', model or nn.Identity())


def untrainable(*splits):
    with pytest.raises(UserError) as error:
        train(*splits)
    return str(error.value)


def test_what_is_left(read, capsys):
    split = read(pipeline=MASKS)
    assert split.objects == dict(box=3, disc=3) and split.annotated == 6 and not split.dropped
    assert split.images == {0: '0.jpg', 1: '1.jpg', 2: '2.jpg'}
    assert split.loads_masks and split.packs_instances
    train(split)
    assert not read().loads_masks and not read().packs_instances
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ('edit', 'reason'),
    [
        (every(area=0), 'have an area of 0 or less'),
        (every(area=-4), 'have an area of 0 or less'),
        (every(bbox=[4, 4, -30, -30]), 'are narrower than one pixel'),
        (every(bbox=[4, 4, 0.5, 20]), 'are narrower than one pixel'),
        (every(bbox=[80, 10, 7, 20]), 'lie outside their image'),
        (every(ignore=1), 'are marked as ignore'),
        (every(iscrowd=1), 'are crowds'),
    ],
)
def test_no_object_is_left(read, edit, reason):
    split = read(edit)
    assert split.dropped == {reason: 6} and not split.objects
    found = untrainable(split)
    assert found.startswith('train: no object is left to train on: of 6 annotations in ')
    assert f'a.json 6 {reason}; ' in found


def test_nothing_is_annotated(read):
    for edit in (lambda coco: coco.update(annotations=[]), lambda coco: coco.pop('annotations') and None):
        assert 'a.json has no annotations of the classes in the images' in untrainable(read(edit))
    # The only annotated image is not among those that are taken.
    split = read(lambda coco: coco.update(annotations=coco['annotations'][:2]), indices=[1, 2])
    assert 'has no annotations of the classes in the images' in untrainable(split)


def test_a_part_without_objects_beside_one_that_has_some(read, capsys):
    background = read(lambda coco: coco.update(annotations=[]))
    train(read(), background)
    assert not capsys.readouterr().err
    train(read(), read(every(area=0)))
    assert 'warning: data: no object is left to train on: of 6 annotations' in capsys.readouterr().err


def test_many_are_dropped(read, capsys):
    train(read(lambda coco: coco['annotations'][0].update(area=0)))
    assert f'{LEFT}1 of 6 annotations in ' in capsys.readouterr().err
    train(read(lambda coco: coco['annotations'][0].update(iscrowd=1)))
    assert not capsys.readouterr().err  # crowds are meant


def test_class_that_never_occurs(read, capsys):
    split = read(lambda coco: coco.update(annotations=coco['annotations'][::2]))
    train(split)
    assert 'train: 1 of 2 classes never occur (disc)' in capsys.readouterr().err
    errors.warn.cache_clear()
    train(split, read())  # but they do in another part
    assert not capsys.readouterr().err


def test_classes_may_be_some_of_the_categories(read, capsys):
    split = read(metainfo=dict(classes=('disc',)))
    assert split.annotated == 3 and split.objects == dict(disc=3)
    train(split)
    assert not capsys.readouterr().err


box = st.tuples(*[st.floats(-20, 90)] * 2, *[st.one_of(st.floats(-2, 100), st.just(1), st.just(0))] * 2)
annotation = st.fixed_dictionaries(
    dict(bbox=box, area=st.sampled_from([-1, 0, 0.5, 50])),
    optional=dict(iscrowd=st.booleans(), ignore=st.booleans()),
)


@settings(max_examples=300, deadline=None)
@given(annotation)
def test_reasons_agree_with_mmdet(annotation):
    dataset = CocoDataset(
        metainfo=dict(classes=CLASSES), lazy_init=True, ann_file='', data_prefix=dict(img='')
    )
    dataset.cat_ids, dataset.cat2label = [1], {1: 0}
    image = dict(img_id=0, file_name='0.jpg', width=SIZE[0], height=SIZE[1])
    parsed = dataset.parse_data_info(
        dict(raw_img_info=image, raw_ann_info=[dict(annotation, category_id=1)])
    )
    kept = [instance for instance in parsed['instances'] if not instance['ignore_flag']]
    assert (find_reason(annotation, image) is None) == bool(kept)


# Images ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ('indices', 'beyond'), [(list(range(5)), '2 of 5 (3, 4)'), ([0, -4], '1 of 2 (-4)')]
)
def test_indices_beyond_the_images(read, indices, beyond):
    found = refused(read, indices=indices)
    assert f'data.indices: {beyond} are beyond the 3 images that there are' in found


def test_indices_count_what_the_filter_leaves(read):
    found = refused(
        read,
        lambda coco: coco.update(annotations=coco['annotations'][:4]),
        indices=[2],
        filter_cfg=dict(filter_empty_gt=True),
    )
    assert 'data.indices: 1 of 1 (2) are beyond the 2 images, of 3 in ' in found


@pytest.mark.parametrize('indices', [0, []])
def test_indices_of_nothing(read, indices):
    assert 'leaves no image' in refused(read, indices=indices)


def test_indices_in_range(read, capsys):
    assert list(read(indices=[2, -3]).images) == [2, 0]
    assert list(read(indices=-1).images) == [2]
    assert not capsys.readouterr().err
    assert len(read(indices=14).images) == 3
    assert 'data.indices = 14, but there are only 3 images: all are taken' in capsys.readouterr().err


def test_filter(read, capsys):
    found = refused(read, filter_cfg=dict(min_size=61))
    assert 'data.filter_cfg (min_size=61) leaves 0 of 3 images' in found
    read(
        lambda coco: coco.update(annotations=coco['annotations'][:2]), filter_cfg=dict(filter_empty_gt=True)
    )
    assert 'data.filter_cfg (filter_empty_gt=True) leaves 1 of 3 images' in capsys.readouterr().err
    read(filter_cfg=dict(filter_empty_gt=True, min_size=60))
    read(lambda coco: coco.update(annotations=[]), test_mode=True, filter_cfg=dict(filter_empty_gt=True))
    assert not capsys.readouterr().err


def test_one_name_for_two_images(read, capsys):
    read(lambda coco: coco['images'][1].update(file_name='0.jpg'))
    assert 'a.json: 1 file names belong to several images (0.jpg)' in capsys.readouterr().err


def test_images_that_are_not_taken_may_be_missing(read, tmp_path):
    (tmp_path / 'images/2.jpg').unlink()
    read(indices=2)
    assert '1 of 3 images do not exist' in refused(read)


# Masks ----------------------------------------------------------------------


def test_masks_are_needed_only_if_they_are_loaded(read):
    edits = [every(segmentation=value) for value in (None, [], 'x', [1, 2, 3, 4, 5, 6])]
    for edit in edits:
        assert sum(read(edit).objects.values()) == 6
        found = refused(read, edit, pipeline=MASKS)
        assert 'data: the pipeline loads masks, but 6 of 6 annotations in ' in found
        assert 'the segmentation of that with id 1 is ' in found


def test_masks_of_objects_that_are_dropped_anyway(read):
    read(lambda coco: coco['annotations'][0].update(area=0, segmentation=[]), pipeline=MASKS)


@pytest.mark.parametrize('segmentation', [[[]], [[1, 1, 9, 9]], [[1, 1, 9, 1, 9]]])
def test_masks_that_mmdet_ignores(read, segmentation):
    split = read(every(segmentation=segmentation), pipeline=MASKS)
    assert split.dropped == {'have no mask that mmdet loads': 6}
    assert 'give each a polygon of at least three points' in untrainable(split)


def test_encoded_masks_without_poly2mask(read):
    edit = every(segmentation=dict(size=[60, 80], counts=[800, 1000, 3000]))
    assert sum(read(edit, pipeline=MASKS).objects.values()) == 6
    polygons = [MASKS[0], dict(MASKS[1], poly2mask=False), MASKS[2]]
    assert 'have no mask that mmdet loads' in untrainable(read(edit, pipeline=polygons))


def test_masks_outside_their_boxes(read, capsys):
    def scale(coco, count):
        for annotation in coco['annotations'][:count]:
            annotation['segmentation'] = [[value / 80 for value in annotation['segmentation'][0]]]

    assert 'lie outside their boxes (ids 1, 2, 3' in refused(
        read, lambda coco: scale(coco, 6), pipeline=MASKS
    )
    read(lambda coco: scale(coco, 1), pipeline=MASKS)
    assert 'the masks of 1 of 6 annotations' in capsys.readouterr().err


class MaskHead(nn.Module):
    def __init__(self, with_mask):
        super().__init__()
        self.roi_head = nn.Identity()
        self.roi_head.with_mask = with_mask


def test_mask_head_without_masks(read):
    with pytest.raises(UserError, match='but the pipeline of data loads no masks'):
        train(read(), model=MaskHead(True))
    train(read(), model=MaskHead(False))
    train(read(pipeline=MASKS), model=MaskHead(True))


def test_other_formats_are_not_read(tmp_path):
    class Other(CocoDataset):
        def load_data_list(self):
            return json.loads('[]')

    dataset = Other(lazy_init=True, ann_file='absent.json', data_prefix=dict(img=''))
    assert read_split(dataset, 'data') is None
    train(None)
