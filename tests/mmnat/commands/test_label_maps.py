"""Label maps made of the masks in a COCO annotation file."""

import json

import cv2
import numpy as np
import pytest

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
