"""The generated demo data set: what is written agrees with what is drawn."""

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip('cv2')
pycocotools = pytest.importorskip('pycocotools')
from pycocotools.coco import COCO  # noqa: E402

from mmnat.data import scenes  # noqa: E402
from mmnat.errors import UserError  # noqa: E402

COUNTS = {'train': 24, 'val': 16}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('demo') / 'nested' / 'set'
    scenes.make_demo_data(out, **COUNTS, seed=3)
    return out


def load_coco(root, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(root / 'annotations' / f'instances_{split}.json')


@pytest.fixture(scope='module', params=scenes.SPLITS)
def split(request):
    return request.param


@pytest.fixture(scope='module')
def coco(root, split):
    return load_coco(root, split)


def read_files(root):
    files = [path for path in root.rglob('*') if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def read_labels(root, split, image):
    path = root / 'annotations' / split / Path(image['file_name']).with_suffix('.png')
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_names_and_palettes_belong_together():
    assert len(scenes.OBJECT_PALETTE) == len(scenes.OBJECT_CLASSES)
    assert len(scenes.SEGMENT_PALETTE) == len(scenes.SEGMENT_CLASSES)
    assert len(set(scenes.SEGMENT_CLASSES)) == len(scenes.SEGMENT_CLASSES)
    assert len(set(scenes.SEGMENT_PALETTE)) == len(scenes.SEGMENT_PALETTE)
    colors = dict(zip(scenes.SEGMENT_CLASSES, scenes.SEGMENT_PALETTE, strict=True))
    assert [colors[name] for name in scenes.OBJECT_CLASSES] == scenes.OBJECT_PALETTE


def test_layout(root, split):
    stems = [f'{index:06d}' for index in range(COUNTS[split])]
    assert sorted(path.name for path in (root / split).iterdir()) == [f'{s}.jpg' for s in stems]
    labels = root / 'annotations' / split
    assert sorted(path.name for path in labels.iterdir()) == [f'{s}.png' for s in stems]
    assert sorted(path.name for path in root.parent.iterdir()) == [root.name]


def test_coco_loads(coco, split):
    assert len(coco.imgs) == COUNTS[split]
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    categories = coco.loadCats(coco.getCatIds())
    assert tuple(category['name'] for category in categories) == scenes.OBJECT_CLASSES
    assert all(category['supercategory'] for category in categories)


def test_images_have_the_stated_size(root, coco, split):
    low, high = scenes.IMAGE_SIDES
    for image in coco.imgs.values():
        picture = cv2.imread(str(root / split / image['file_name']), cv2.IMREAD_UNCHANGED)
        assert picture.shape == (image['height'], image['width'], 3)
        assert low <= min(picture.shape[:2]) <= max(picture.shape[:2]) <= high
    assert len({(image['width'], image['height']) for image in coco.imgs.values()}) > 4


def test_area_and_box_are_those_of_the_mask(coco):
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        left, top = columns.min(), rows.min()
        size = [columns.max() - left + 1, rows.max() - top + 1]
        assert annotation['area'] == mask.sum() >= scenes.MIN_VISIBLE_PIXELS
        assert annotation['bbox'] == [left, top, *size]
        assert annotation['iscrowd'] == 0


def test_label_map_is_the_masks_on_stuff(root, coco, split):
    stuff_count = len(scenes.STUFF_CLASSES)
    low, high = scenes.OBJECT_COUNTS
    for image_id, image in coco.imgs.items():
        labels = read_labels(root, split, image)
        assert labels.dtype == np.uint8
        assert labels.shape == (image['height'], image['width'])
        expected = np.zeros_like(labels)
        annotations = coco.imgToAnns[image_id]
        assert low <= len(annotations) <= high
        for annotation in annotations:
            mask = coco.annToMask(annotation) > 0
            assert not expected[mask].any(), 'masks overlap'
            expected[mask] = stuff_count + annotation['category_id']
        on_object = expected > 0
        assert np.array_equal(labels[on_object], expected[on_object])
        assert np.isin(labels[~on_object], np.arange(1, stuff_count + 1)).all()


def test_every_class_appears(root, coco, split):
    images = coco.imgs.values()
    seen = np.unique(np.concatenate([read_labels(root, split, i).ravel() for i in images]))
    assert seen.tolist() == list(range(1, len(scenes.SEGMENT_CLASSES) + 1))
    assert all(coco.getImgIds(catIds=category) for category in coco.getCatIds())


def test_ring_has_a_hole(coco):
    ring = scenes.OBJECT_CLASSES.index('ring') + 1
    masks = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(catIds=ring))]
    holes = [len(cv2.findContours(m, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]) > 1 for m in masks]
    assert any(holes)


def test_some_objects_are_occluded():
    hidden = 0
    for index in range(20):
        scene = scenes.make_scene(0, 'train', index)
        boundary = scene.instances[:, :-1], scene.instances[:, 1:]
        hidden += np.any((boundary[0] != boundary[1]) & (np.minimum(*boundary) >= 0))
    assert hidden >= 3


def test_same_seed_same_bytes(root, tmp_path):
    scenes.make_demo_data(tmp_path / 'again', **COUNTS, seed=3)
    assert read_files(tmp_path / 'again') == read_files(root)


def test_scene_depends_on_seed_split_and_index_only(root, tmp_path):
    scenes.make_demo_data(tmp_path / 'short', train=2, val=1, seed=3)
    short, full = read_files(tmp_path / 'short'), read_files(root)
    pictures = [name for name in short if not name.endswith('.json')]
    assert len(pictures) == 6
    assert all(short[name] == full[name] for name in pictures)

    scenes.make_demo_data(tmp_path / 'other', train=2, val=1, seed=4)
    other = read_files(tmp_path / 'other')
    assert all(short[name] != other[name] for name in pictures)
    assert short['train/000000.jpg'] != short['train/000001.jpg'] != short['val/000000.jpg']


def test_existing_data_set_is_left_alone(tmp_path, capsys, monkeypatch):
    out = tmp_path / 'set'
    scenes.make_demo_data(out, train=2, val=1)
    before = read_files(out)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(scenes, 'make_scene', None)
        scenes.make_demo_data(out, train=2, val=1)
    assert capsys.readouterr().out == f'{out}: already there\n'

    with pytest.raises(UserError, match=r"holds another demo data set, .*'seed': 0.*; remove or rename it"):
        scenes.make_demo_data(out, train=2, val=1, seed=1)
    assert read_files(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('manifest', [None, 'not json', '[]', '{"generator": "another"}'])
def test_foreign_folder_is_refused(tmp_path, manifest):
    out = tmp_path / 'photos'
    out.mkdir()
    (out / 'precious.txt').write_text('keep me')
    if manifest is not None:
        (out / scenes.MANIFEST).write_text(manifest)
    before = read_files(out)
    with pytest.raises(UserError, match='not a demo data set'):
        scenes.make_demo_data(out, **COUNTS)
    assert read_files(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ['photos']


def test_file_is_refused(tmp_path):
    out = tmp_path / 'file'
    out.write_text('keep me')
    with pytest.raises(UserError, match='not a folder'):
        scenes.make_demo_data(out, **COUNTS)
    assert out.read_text() == 'keep me'


def test_empty_folder_is_filled(tmp_path):
    scenes.make_demo_data(tmp_path / '.', train=1, val=1)
    assert (tmp_path / scenes.MANIFEST).is_file()


@pytest.mark.parametrize('bad', [dict(train=0), dict(val=0), dict(seed=-1)])
def test_numbers_out_of_range_are_refused(tmp_path, bad):
    with pytest.raises(UserError, match='got train'):
        scenes.make_demo_data(tmp_path / 'set', **COUNTS | bad)
    assert not any(tmp_path.iterdir())


def test_interruption_leaves_nothing_half_done(tmp_path, monkeypatch):
    make_scene = scenes.make_scene

    def interrupted(seed, split, index):
        if split == 'val':
            raise KeyboardInterrupt
        return make_scene(seed, split, index)

    monkeypatch.setattr(scenes, 'make_scene', interrupted)
    with pytest.raises(KeyboardInterrupt):
        scenes.make_demo_data(tmp_path / 'set', train=2, val=1)
    assert not any(tmp_path.iterdir())
