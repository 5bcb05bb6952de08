"""Annotation files: what is rejected, and what is not."""

import json
import math

import pytest

pytest.importorskip('mmdet')

from coco_split import edited, new_coco, write_coco
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.datasets.api_wrappers import COCO

from mmnat import errors
from mmnat.errors import UserError
from mmnat.preflight.coco import (
    check_boxes,
    check_classes,
    check_ids,
    let_pycocotools_read_utf8,
    load_coco,
)


@pytest.fixture(autouse=True)
def forget_warnings():
    errors.warn.cache_clear()


def message(function, *args, **kwargs):
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    return str(error.value)


def every(section, **values):
    """An edit that sets values in all entries of a section; None removes one."""

    def edit(coco):
        for entry in coco[section]:
            for name, value in values.items():
                if value is None:
                    del entry[name]
                else:
                    entry[name] = value

    return edit


@pytest.mark.parametrize(
    ('edit', 'expected'),
    [
        (every('annotations', id=None), 'annotations[0] lacks id; number the annotations'),
        (every('annotations', area=None), 'annotations[0] lacks area; give each annotation its area'),
        (every('annotations', area=math.nan), 'annotations[0].area is nan'),
        (every('annotations', bbox=[1, 2, math.nan, 4]), 'annotations[0].bbox is [1, 2, nan, 4]'),
        (every('annotations', bbox=[1, 2, math.inf, 4]), 'annotations[0].bbox is [1, 2, inf, 4]'),
        (every('annotations', bbox=[1, 2, 10**12, 4]), 'annotations[0].bbox is'),
        (every('annotations', bbox=[1, 2, '3', 4]), 'annotations[0].bbox is'),
        (every('images', width=0), 'images[0].width is 0'),
        (every('images', height=-60), 'images[0].height is -60'),
        (every('images', height=60.5), 'images[0].height is 60.5'),
        (every('images', height=math.nan), 'images[0].height is nan'),
    ],
)
def test_values(tmp_path, edit, expected):
    path = write_coco(tmp_path / 'a.json', edited(edit))
    assert expected in message(load_coco, path)


def test_floats_that_are_whole_are_sizes(tmp_path):
    path = write_coco(tmp_path / 'a.json', edited(every('images', width=80.0, height=60.0)))
    assert load_coco(path)['images'][0]['width'] == 80


@pytest.mark.parametrize('section', ['images', 'categories'])
def test_repeated_ids(tmp_path, section):
    path = write_coco(tmp_path / 'a.json', edited(lambda coco: coco[section].append(coco[section][0])))
    assert f'1 ids of {section} repeat (' in message(load_coco, path)


def test_repeated_ids_of_annotations():
    coco = edited(lambda coco: coco['annotations'][3].update(id=1))
    assert 'a.json: 1 ids of annotations repeat (1)' in message(check_ids, 'a.json', coco, 'annotations')
    check_ids('a.json', new_coco(), 'annotations')


def test_annotations_may_be_absent_from_a_list_of_images(tmp_path):
    path = write_coco(tmp_path / 'a.json', edited(lambda coco: coco.pop('annotations') and None))
    assert "no list 'annotations'" in message(load_coco, path)
    assert load_coco(path, annotated=False)['annotations'] == []


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_encodings(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr('locale.getpreferredencoding', lambda *_: 'ascii')
    coco = edited(lambda coco: coco['categories'][0].update(name='漂浮物'))
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(coco, ensure_ascii=False), encoding=encoding)
    let_pycocotools_read_utf8()
    assert load_coco(str(path))['categories'] == COCO(str(path)).dataset['categories'] == coco['categories']


# Classes --------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_order_of_classes(data):
    """Accepted exactly if the labels that mmdet gives belong to the names."""
    names = data.draw(st.lists(st.sampled_from('abcd'), min_size=1, max_size=4))
    coco = dict(images=[], annotations=[])
    coco['categories'] = [dict(id=10 - index, name=name) for index, name in enumerate(names)]
    classes = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
    api = COCO()
    api.dataset = coco
    api.createIndex()
    named = [api.cats[key]['name'] for key in api.get_cat_ids(cat_names=classes)]
    if named == classes and len(set(classes)) == len(classes):
        check_classes('a.json', coco, tuple(classes), 'data')
    else:
        message(check_classes, 'a.json', coco, tuple(classes), 'data')


def test_messages_on_classes():
    coco = new_coco()
    other = message(check_classes, 'a.json', coco, ('disc', 'box'), 'data')
    assert "objects of 'box' (label 0) would be named 'disc'; write classes = ('box', 'disc')" in other
    assert 'has no classes' in message(check_classes, 'a.json', coco, (), 'data')
    coco['categories'].append(dict(id=9, name='box'))
    twice = message(check_classes, 'a.json', coco, ('box',), 'data')
    assert "a.json have the name 'box' 2 times, with the ids 5, 9" in twice
    check_classes('a.json', coco, ('disc',), 'data')  # the others are not used
    repeated = message(check_classes, 'a.json', new_coco(), ('box', 'box', 'disc'), 'data')
    assert "data.metainfo.classes have the name 'box' 2 times;" in repeated


# Boxes ----------------------------------------------------------------------


def test_boxes_from_0_to_1():
    coco = edited(every('annotations', bbox=[0.1, 0.2, 0.3, 0.4]))
    assert 'all boxes lie between 0 and 1' in message(check_boxes, 'a.json', coco)
    coco['annotations'][0]['bbox'] = [0, 0, 20, 20]
    check_boxes('a.json', coco)


def test_boxes_that_are_corners():
    def edit(coco):
        for annotation in coco['annotations']:
            left, top, width, height = annotation['bbox']
            annotation['bbox'] = [left, top, left + width, top + height]

    found = message(check_boxes, 'a.json', edited(edit))
    assert (
        'bbox seems to hold two corners (annotations[1].bbox is [44, 10, 74, 40] in an image of 80x60)'
        in found
    )


def test_boxes_beyond_the_image(capsys):
    check_boxes('a.json', edited(every('annotations', bbox=[-100, -100, 400, 400])))
    assert 'warning: a.json: 6 of 6 boxes reach far beyond' in capsys.readouterr().err
    check_boxes('a.json', edited(every('annotations', bbox=[-2, -2, 84, 64])))
    check_boxes('a.json', new_coco())
    check_boxes('a.json', edited(lambda coco: coco.update(annotations=[])))
    assert not capsys.readouterr().err
