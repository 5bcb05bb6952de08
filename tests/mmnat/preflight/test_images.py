"""Images: what cannot be read, and sizes other than the annotations say."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('mmcv')

from mmcv.transforms import Compose, LoadImageFromFile
from PIL import Image

from mmnat import errors
from mmnat.errors import UserError
from mmnat.preflight import images
from mmnat.preflight.images import check_dataset_images, check_image_sizes
from mmnat.preflight.samples import some

ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def forget_warnings():
    errors.warn.cache_clear()


def write(path, size=(80, 60), mode='RGB', orientation=1, kind=None):
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(values).convert(mode).save(path, format=kind, exif=exif)
    return str(path)


def check(path, size=(80, 60), **loading):
    dataset = SimpleNamespace(ann_file='a.json', pipeline=Compose([LoadImageFromFile(**loading)]))
    loaded = dataset.pipeline(dict(img_path=path))['img_shape']
    check_image_sizes([(path, size)], dataset, 'data')
    assert loaded == (size[1], size[0])  # what passes is right


def refused(function, *args, **kwargs):
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    return str(error.value)


@pytest.mark.parametrize('mode', ['L', 'P', 'CMYK', 'RGBA', '1', 'I;16'])
def test_kinds_of_pixels(tmp_path, mode):
    if mode == 'I;16':
        path = str(tmp_path / 'a.png')
        Image.fromarray(np.full((60, 80), 40000, np.uint16)).save(path)
    else:
        path = write(tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png'), mode=mode)
    check_dataset_images([path], 'data')
    check(path)


@pytest.mark.parametrize('name', ['a.jfif', 'A.JPG', 'a', '图 像 $1.jpg', 'a.png.jpg'])
def test_names(tmp_path, name):
    path = write(tmp_path / name, kind='JPEG')
    check_dataset_images([path], 'data')
    check(path)


def test_format_that_opencv_does_not_know(tmp_path):
    path = str(tmp_path / 'a.jpg')
    Image.new('RGB', (80, 60)).save(path, format='ICO')
    assert 'data: 1 of 1 images cannot be decoded' in refused(check_dataset_images, [path], 'data')


def test_other_size(tmp_path):
    path = write(tmp_path / 'a.jpg')
    assert (
        f'1 of 1 images have another size than width and height in a.json say: {path} is 80x60, not 160x120'
        in (refused(check, path, (160, 120)))
    )
    refused(check, path, (60, 80))
    check(path, (80.0, 60.0))


def test_few_images_of_another_size(tmp_path, capsys):
    path = write(tmp_path / 'a.jpg')
    dataset = SimpleNamespace(ann_file='a.json', pipeline=Compose([LoadImageFromFile()]))
    listed = [(path, (80, 60))] * 99
    check_image_sizes([*listed, (path, (81, 60))], dataset, 'data')
    assert 'warning: data: 1 of 100 images have another size' in capsys.readouterr().err
    refused(check_image_sizes, [*listed, *[(path, (81, 60))] * 2], dataset, 'data')


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp', 'tiff'])
@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('flag', ['color', 'unchanged', 'color_ignore_orientation'])
def test_orientations(tmp_path, kind, orientation, flag):
    """The size in the annotations passes if and only if it is that of the image as loaded."""
    path = write(tmp_path / f'a.{kind}', orientation=orientation)
    loaded = LoadImageFromFile(color_type=flag)(dict(img_path=path))['img_shape']
    size = (loaded[1], loaded[0])
    check(path, size, color_type=flag)
    refused(check, path, size[::-1], color_type=flag)


def test_remedy_for_turned_images(tmp_path, capsys):
    path = write(tmp_path / 'a.jpg', orientation=6)
    found = refused(check, path)
    assert (
        '1 of 1 images are turned by their EXIF orientation, but a.json describes them as they are stored: '
        + path
        in found
    )
    assert "set color_type='color_ignore_orientation' in LoadImageFromFile" in found
    check(path, color_type='color_ignore_orientation')
    check(path, (60, 80))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(('orientation', 'size'), [(3, (80, 60)), (6, (60, 60))])
def test_turned_images_of_the_same_size(tmp_path, capsys, orientation, size):
    path = write(tmp_path / 'a.jpg', size=size, orientation=orientation)
    check(path, size)
    assert 'warning: data: 1 of 1 images are turned' in capsys.readouterr().err


def test_some_are_spread():
    assert some([1, 2], 3) == [1, 2]
    assert some(range(100), 4) == [0, 25, 50, 75]
    assert some(range(5), 0) == []


def test_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(images, 'MAX_OPENED', 2)
    paths = [write(tmp_path / f'{index}.jpg') for index in range(4)]
    (tmp_path / '2.jpg').write_bytes(b'no image')
    found = refused(check_dataset_images, paths, 'data')
    assert '1 of 2 images that were looked at, spread over all 4, cannot be decoded' in found
    (tmp_path / '2.jpg').unlink()
    assert '1 of 2 images that were looked at, spread over all 4, do not exist' in refused(
        check_dataset_images, paths, 'data'
    )
