"""What is wrong, and what only looks so, with the files of a data set of mmseg."""

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')

from hypothesis import given
from hypothesis import strategies as st
from mmseg.datasets import BaseSegDataset

from mmnat.config import register_modules
from mmnat.errors import UserError
from mmnat.preflight import label_maps
from mmnat.preflight.samples import spread
from mmnat.preflight.segmentation import check_segmentation_dataset

CLASSES = ('ground', 'disc', 'square')
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
RESIZE = dict(type='RandomResize', scale=(40, 30), keep_ratio=True)
TEST = [LOAD[0], RESIZE, LOAD[1]]
ORIENTATION = 0x0112


@pytest.fixture(autouse=True, scope='module')
def modules():
    register_modules('mmseg')


@pytest.fixture
def root(tmp_path):
    """Four images of 40x30 pixels with label maps."""
    for name in ('images', 'labels'):
        (tmp_path / name).mkdir()
    for index in range(4):
        draw_image(tmp_path / f'images/{index}.jpg')
        draw_labels(tmp_path / f'labels/{index}.png')
    return tmp_path


def draw_image(path, size=(40, 30), orientation=None):
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    Image.fromarray(np.full((size[1], size[0], 3), 99, np.uint8)).save(path, format='JPEG', exif=exif)


def draw_labels(path, values=(0, 1, 2), size=(40, 30), dtype=np.uint8):
    labels = np.resize(np.repeat(np.array(values, dtype), 7), (size[1], size[0]))
    assert cv2.imwrite(str(path), labels)


@pytest.fixture
def check(root, capsys):
    """Check a data set in the folder, and give the lines that are printed."""

    def check(field='train_dataloader.dataset', classes=CLASSES, **options):
        folders = dict(img_path=str(root / 'images'), seg_map_path=str(root / 'labels'))
        options = dict(data_prefix=folders, pipeline=LOAD, metainfo=dict(classes=classes)) | options
        check_segmentation_dataset(BaseSegDataset(lazy_init=True, **options), field)
        return capsys.readouterr().err.splitlines()

    return check


@pytest.fixture
def refused(check):
    def refused(*args, **options):
        with pytest.raises(UserError) as error:
            check(*args, **options)
        assert '; ' in str(error.value)
        return str(error.value)

    return refused


def test_what_is_right_says_nothing(check, root):
    assert check() == check('val_dataloader.dataset', pipeline=TEST) == []
    (root / 'list.txt').write_text('0\n3\n')
    assert check(ann_file=str(root / 'list.txt')) == check(indices=2) == check(indices=[0, -4]) == []


# Sizes ----------------------------------------------------------------------


def test_other_size(refused, root):
    draw_labels(root / 'labels/2.png', size=(30, 20))
    message = refused()
    assert message.startswith(
        'train_dataloader.dataset: 1 of 4 label maps have not the size of their image: '
    )
    assert f'{root}/labels/2.png is 30x20, {root}/images/2.jpg 40x30; ' in message


def test_smaller_label_maps_are_right_if_both_are_resized_next(check, refused, root):
    draw_labels(root / 'labels/2.png', size=(20, 15))
    assert check(pipeline=[*LOAD, RESIZE]) == []
    for pipeline in (LOAD, TEST, [*LOAD, dict(type='RandomFlip', prob=0.5), RESIZE]):
        assert '1 of 4 label maps have not the size' in refused(pipeline=pipeline)
    draw_labels(root / 'labels/2.png', size=(20, 20))
    assert '1 of 4 label maps have not the size' in refused(pipeline=[*LOAD, RESIZE])


def test_turned_images(check, refused, root):
    draw_image(root / 'images/1.jpg', orientation=6)
    message = refused()
    assert '1 of 4 label maps are not turned, but their images are, by the EXIF orientation: ' in message
    assert f'{root}/labels/1.png is 40x30, {root}/images/1.jpg 30x40; set color_type=' in message
    as_stored = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
    assert check(pipeline=[as_stored, LOAD[1]]) == []
    draw_labels(root / 'labels/1.png', size=(30, 40))
    assert check() == []
    assert '1 of 4 label maps have not the size' in refused(pipeline=[as_stored, LOAD[1]])


@pytest.mark.parametrize(('orientation', 'size'), [(3, (40, 30)), (2, (40, 30)), (6, (30, 30))])
def test_turned_images_of_the_same_size(check, root, orientation, size):
    draw_image(root / 'images/1.jpg', size, orientation)
    draw_labels(root / 'labels/1.png', size=size)
    [warning] = check()
    assert 'the images of 1 of 4 label maps are turned by their EXIF orientation when they are' in warning
    as_stored = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
    assert check(pipeline=[as_stored, LOAD[1]]) == []
    for upright in (0, 1, None):
        draw_image(root / 'images/1.jpg', size, upright)
        assert check() == []


# Values ---------------------------------------------------------------------


def test_colours(check, refused, root):
    cv2.imwrite(str(root / 'labels/3.png'), np.zeros((30, 40, 3), np.uint8))
    assert f'1 of 4 label maps are in colour: {root}/labels/3.png (RGB); ' in refused()
    palette = Image.fromarray(np.resize(np.arange(3, dtype=np.uint8), (30, 40)), 'L').convert('P')
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    palette.save(root / 'labels/3.png')
    assert Image.open(root / 'labels/3.png').mode == 'P'
    assert check() == []
    by_opencv = dict(type='LoadAnnotations', imdecode_backend='cv2')
    assert 'labels/3.png has shape (30, 40, 3); ' in refused(pipeline=[LOAD[0], by_opencv])


@pytest.mark.parametrize('values', [(0, 256), (1, 1000), (0, 300, 65535)])
def test_values_of_16_bits(refused, root, values):
    draw_labels(root / 'labels/0.png', values, dtype=np.uint16)
    message = refused()
    assert f'label map {root}/labels/0.png has the values {values[1]}; mmseg keeps 8 bits' in message


def test_16_bits_without_such_values_are_right(check, root):
    draw_labels(root / 'labels/0.png', (0, 1, 2, 255, 65535), dtype=np.uint16)
    assert check() == []


def test_0_and_255(check, refused, root):
    two = CLASSES[:2]
    for index in range(4):
        draw_labels(root / f'labels/{index}.png', (0, 255))
    for field in ('train_dataloader.dataset', 'test_dataloader.dataset'):
        message = refused(field, two)
        assert message == (
            f'{field}: 4 label maps have only the values 0 and 255, and 255 is ignored: no pixel is of '
            "class 'disc'; store 1 for it instead of 255"
        )
    draw_labels(root / 'labels/3.png', (0, 1, 255))
    assert check(classes=two) == []


def test_everything_is_ignored(check, refused, root):
    for index in range(4):
        draw_labels(root / f'labels/{index}.png', (0, 255))
    message = refused(reduce_zero_label=True)
    assert 'in 4 label maps every pixel is 255, which is ignored; correct' in message
    draw_labels(root / 'labels/3.png', (1, 2, 3))
    assert check(reduce_zero_label=True) == []


def test_values_beyond_the_classes(refused, root):
    draw_labels(root / 'labels/2.png', (0, 3, 7))
    assert 'has the values 3, 7 beyond the 3 classes of metainfo (ignored: 255); correct' in refused()
    (root / 'labels').rename(root / 'old')
    (root / 'labels').mkdir()
    for index in range(4):
        draw_labels(root / f'labels/{index}.jpg', (0, 200))
    assert refused(seg_map_suffix='.jpg').endswith('store label maps as PNG, for JPEG changes the values')


def test_classes_that_never_occur(check):
    many = (*CLASSES, 'cat', 'dog')
    assert check(classes=many) == [
        'warning: train_dataloader.dataset: 2 of 5 classes are in none of 4 label maps and cannot be '
        'learned: cat, dog'
    ]
    assert (
        check('val_dataloader.dataset', many) == check('train_dataloader.dataset.datasets[0]', many) == []
    )


def test_a_sample_is_called_so(check, refused, root, monkeypatch):
    monkeypatch.setattr(label_maps, 'VALUE_SECONDS', 0.0)
    assert 'are in none of 1 label maps looked at, of 4, and' in check(classes=(*CLASSES, 'cat'))[0]
    monkeypatch.setattr(label_maps, 'HEADER_SECONDS', 0.0)
    draw_labels(root / 'labels/0.png', size=(30, 20))
    assert '1 of 1 label maps looked at, of 4, have not the size' in refused()


@given(st.integers(0, 300), st.data())
def test_the_first_of_a_spread_are_spread(count, data):
    order = list(spread(range(count)))
    assert sorted(order) == list(range(count))
    if count:
        first = sorted(order[: data.draw(st.integers(1, count))])
        gaps = np.diff([-1, *first, count])
        # No part that is left out is longer than about two equal shares.
        assert gaps.max() <= 4 * count / len(first) + 1


# Lists ----------------------------------------------------------------------


def test_some_images_are_left_out(check, root):
    (root / 'images/1.jpg').rename(root / 'images/1.JPG')
    (root / 'images/notes.txt').touch()
    assert check() == [
        f'warning: train_dataloader.dataset: 1 of 4 images in {root}/images do not end in img_suffix = '
        "'.jpg' and are left out (1 .JPG; first: 1.JPG); give all images one suffix, or list each suffix "
        'in a data set of its own (ConcatDataset)'
    ]


def test_most_images_are_left_out(refused, root):
    for index in range(3):
        (root / f'images/{index}.jpg').rename(root / f'images/{index}.{("JPG", "jpeg")[index // 2]}')
    assert '3 of 4 images' in refused() and '(2 .JPG, 1 .jpeg; first: 0.JPG); give' in refused()
    (root / 'images/3.jpg').unlink()
    assert f'no *.jpg in {root}/images, but 2 .JPG, 1 .jpeg; correct img_suffix' in refused()


def test_files_that_belong_to_images_are_no_images(check, root):
    for index in range(4):
        (root / f'labels/{index}.png').rename(root / f'images/{index}.png')
        (root / f'images/{index}_depth.png').touch()
    folder = str(root / 'images')
    assert check(data_prefix=dict(img_path=folder, seg_map_path=folder)) == []
    (root / 'images/maps').mkdir()
    for index in range(4):
        (root / f'images/{index}.png').rename(root / f'images/maps/{index}.png')
    assert check(data_prefix=dict(img_path=folder, seg_map_path=f'{folder}/maps')) == []


def test_label_maps_without_image(check, root):
    draw_labels(root / 'labels/7.png')
    draw_labels(root / 'labels/1_instances.png')
    warning = (
        f'1 label maps in {root}/labels are not used, for {root}/images has no images of these names: 7.png'
    )
    assert check() == [f'warning: train_dataloader.dataset: {warning}']
    (root / 'list.txt').write_text('0\n')
    assert check(ann_file=str(root / 'list.txt')) == []


def test_images_without_label_map(check, refused, root):
    (root / 'labels/2.png').rename(root / 'labels/2_mask.png')
    message = refused()
    assert '1 of 4 images have no label map: ' in message
    assert f'labels/2.png; there is {root}/labels/2_mask.png; correct seg_map_suffix' in message
    assert check('test_dataloader.dataset', pipeline=LOAD[:1]) == [], 'a test without them'


@pytest.mark.parametrize(
    ('content', 'problem'),
    [
        ('', 'list.txt is empty; list'),
        ('0\n\n1\n', 'list.txt, line 2, is empty; remove the line'),
        ('0\n1.jpg\n', "1 of 2 names are not of an image; the first is '1.jpg' in line 2, and "),
        ('1.jpg\n2.jpg\n', "/1.jpg.jpg does not exist; write names without suffix: img_suffix = '.jpg' is"),
        ('0 0.png\n', "the first is '0 0.png' in line 1, and "),
        ('9\n', '/9.jpg does not exist; name images below '),
        ('4\n', '/4.jpg does not exist; there is ROOT/images/4.JPG; name'),
    ],
)
def test_lists(refused, root, content, problem):
    (root / 'images/4.JPG').touch()
    (root / 'list.txt').write_text(content)
    assert problem.replace('ROOT', str(root)) in refused(ann_file=str(root / 'list.txt'))


def test_nothing_is_left(refused, root):
    assert 'has no images; correct indices' in refused(indices=0)
    assert 'indices has 4, 9, but there are only 4 images; give indices below 4' in refused(
        indices=[0, 4, 9]
    )
    for path in (root / 'images').iterdir():
        path.unlink()
    assert f'no *.jpg in {root}/images; correct' in refused()


@pytest.mark.parametrize('indices', [5, -5])
def test_more_than_there_are(check, indices):
    warning = f'train_dataloader.dataset.indices = {indices}, but there are only 4 images: all are taken'
    assert check(indices=indices) == [f'warning: {warning}']


def test_folders_of_mmdet(refused, root):
    message = refused(data_prefix=dict(img=str(root / 'images')))
    assert (
        'train_dataloader.dataset.data_prefix has img, not img_path; name the folders img_path' in message
    )
