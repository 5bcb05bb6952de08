"""Label maps made of the masks in a COCO annotation file."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmnat.commands import label_maps as command


def square(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def annotations():
    images = [dict(id=i, file_name=f'{name}.jpg', width=40, height=30) for i, name in enumerate('abc')]
    objects = [(0, 7, square(4, 4, 8), 64), (0, 3, square(0, 0, 20), 400), (1, 7, square(20, 10, 10), 100)]
    return dict(
        images=images,
        categories=[dict(id=7, name='nut'), dict(id=3, name='bowl')],
        annotations=[
            dict(
                id=i,
                image_id=image,
                category_id=kind,
                segmentation=mask,
                area=area,
                bbox=[0, 0, 1, 1],
                iscrowd=0,
            )
            for i, (image, kind, mask, area) in enumerate(objects, 1)
        ],
    )


@pytest.fixture
def make(tmp_path, capsys):
    def make(content, *options):
        (tmp_path / 'coco.json').write_text(json.dumps(content))
        code = 0
        try:
            command.main([str(tmp_path / 'coco.json'), str(tmp_path / 'maps'), *options])
        except SystemExit as stop:
            code = stop.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return make


def test_labels_go_by_category_and_small_objects_lie_on_top(make, tmp_path):
    code, out, _ = make(annotations(), '--held-out', '1')
    assert code == 0 and "('background', 'bowl', 'nut')" in out
    first, second, third = (
        cv2.imread(str(tmp_path / 'maps' / f'{n}.png'), cv2.IMREAD_UNCHANGED) for n in 'abc'
    )
    assert first.shape == (30, 40) and (first[8, 8], first[17, 17], first[29, 39]) == (2, 1, 0)
    assert set(np.unique(second)) == {0, 2} and not third.any()
    assert (tmp_path / 'maps' / 'train.txt').read_text() == 'a\nb\n'
    assert (tmp_path / 'maps' / 'val.txt').read_text() == 'c\n'


def test_nothing_is_written_of_what_is_wrong(make, tmp_path):
    content = annotations()
    del content['annotations'][0]['segmentation']
    code, _, error = make(content)
    assert code == 2 and 'annotation 1 has no mask' in error
    code, _, error = make(annotations(), '--held-out', '3')
    assert code == 2 and '--held-out 3 of 3 images' in error
    many = annotations() | dict(categories=[dict(id=i, name=str(i)) for i in range(300)])
    code, _, error = make(many)
    assert code == 2 and '300 categories' in error
    assert [path.name for path in tmp_path.iterdir()] == ['coco.json']


def test_a_folder_is_never_replaced(make, tmp_path):
    (tmp_path / 'maps').mkdir()
    code, _, error = make(annotations())
    assert code == 2 and 'maps exists' in error and not list((tmp_path / 'maps').iterdir())


def test_nothing_is_written_outside_or_twice(make, tmp_path):
    (tmp_path / 'a.png').write_bytes(b'precious')
    for name, problem in (
        (str(tmp_path / 'a.png'), 'is an absolute path'),
        ('../a.png', 'leads out of the output folder'),
        ('b.png', "images[0].file_name = 'b.png' and "),
        ('B.jpg', "images[1].file_name = 'b.jpg' would be written to one place"),
        ('a\nb.jpg', 'or a line break: no list of mmseg can name it; rename the image'),
        ('a .jpg', 'has white space at an end'),
    ):
        content = annotations()
        content['images'][0]['file_name'] = name
        code, _, error = make(content)
        assert code == 2 and f'coco.json: images[0].file_name = {name!r}' in error and problem in error
        assert sorted(path.name for path in tmp_path.iterdir()) == ['a.png', 'coco.json']
    assert (tmp_path / 'a.png').read_bytes() == b'precious'


def test_folders_and_names_of_images_are_kept(make, tmp_path):
    content = annotations()
    for image, name in zip(content['images'], ('x/a.jpg', 'y/a.jpg', 'é.v1.JPG'), strict=True):
        image['file_name'] = name
    assert make(content)[0] == 0
    assert all((tmp_path / 'maps' / name).is_file() for name in ('x/a.png', 'y/a.png', 'é.v1.png'))
    assert (tmp_path / 'maps/train.txt').read_text(encoding='utf-8') == 'x/a\ny/a\né.v1\n'


def maps_of(folder):
    return [cv2.imread(str(folder / f'{name}.png'), cv2.IMREAD_UNCHANGED).tolist() for name in 'abc']


def runs(pixels):
    """The runs of an uncompressed encoding: of zeros, ones, zeros, ... down the columns."""
    flat = pixels.flatten(order='F')
    changes = np.flatnonzero(np.diff(flat)) + 1
    return [0] * int(flat[0]) + np.diff([0, *changes, flat.size]).tolist()


def test_what_other_tools_write_gives_the_same_maps(make, tmp_path):
    make(annotations())
    wanted = maps_of(tmp_path / 'maps')
    (tmp_path / 'maps').rename(tmp_path / 'first')
    content = annotations()
    for image in content['images']:
        image.update(width=40.0, height=30.0)
    for index, annotation in enumerate(content['annotations']):
        mask = coco_mask.merge(coco_mask.frPyObjects(annotation['segmentation'], 30, 40))
        if index == 0:
            annotation['segmentation'] = dict(size=[30, 40], counts=mask['counts'].decode())
        elif index == 1:
            pixels = np.asarray(coco_mask.decode(mask))
            annotation['segmentation'] = dict(size=[30.0, 40.0], counts=runs(pixels))
        for name in ('area', 'iscrowd', 'bbox', 'id'):
            del annotation[name]
    code, _, error = make(content)
    assert code == 0 and not error
    assert maps_of(tmp_path / 'maps') == wanted


@pytest.mark.parametrize(('name', 'value'), [('width', 40.5), ('height', 0), ('width', float('nan'))])
def test_sizes_that_are_no_number_of_pixels(make, name, value):
    content = annotations()
    content['images'][1][name] = value
    code, _, error = make(content)
    assert code == 2 and f'images[1].{name} is {value!r}; correct' in error


@pytest.mark.parametrize(
    ('segmentation', 'problem'),
    [
        (None, 'has no mask'),
        ([], 'has no mask'),
        ('mask.png', "has the mask 'mask.png'"),
        ([4, 4, 12, 4, 12, 12], 'has a mask that is no list of polygons'),
        ([[4, 4, 12, 4, 12, 12, 4]], 'has a polygon of 7 numbers, an odd count'),
        ([[4, 4, 12, 4, None, 12]], 'has values that are not numbers'),
        ([[4, 4, 12, 4, float('inf'), 12]], 'has values that are not numbers'),
        (
            dict(size=[40, 30], counts=[1200]),
            'has a mask of [height, width] = [40, 30], but its image has [30, 40]',
        ),
        (dict(size=[30, 40], counts=[1199]), 'has counts of 1199 pixels for an image of 1200'),
        (dict(size=[30, 40], counts=[1201, -1]), 'has counts that are not numbers of pixels'),
        (dict(size=[30, 40], counts=None), 'has a mask with counts = None'),
        (dict(size=[30, 40], counts='abc'), 'has counts that are no run-length encoding'),
    ],
)
def test_masks_that_are_none(make, tmp_path, segmentation, problem):
    content = annotations()
    content['annotations'][1]['segmentation'] = segmentation
    code, _, error = make(content)
    assert code == 2 and f'annotation 2 {problem}' in error
    del content['annotations'][1]['id']
    code, _, error = make(content)
    assert code == 2 and f'annotations[1] {problem}' in error
    assert [path.name for path in tmp_path.iterdir()] == ['coco.json']


def test_flat_polygons_are_left_out(make, tmp_path):
    make(annotations())
    wanted = maps_of(tmp_path / 'maps')
    (tmp_path / 'maps').rename(tmp_path / 'first')
    content = annotations()
    content['annotations'][0]['segmentation'].insert(0, [10, 10, 14, 12])
    content['annotations'].append(dict(content['annotations'][0], id=9, segmentation=[[1, 1], []]))
    code, _, error = make(content)
    assert code == 0 and error.startswith('warning: polygons of fewer than three points are left out')
    assert error.count('\n') == 1 and 'annotation 1' in error and 'annotation 9' in error
    assert maps_of(tmp_path / 'maps') == wanted
