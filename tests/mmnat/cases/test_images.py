"""Images as users have them."""

import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from user_project import case

pytestmark = pytest.mark.long
TRAIN = 'train detector.py'


def image(project, index=0):
    return project.path(f'data/train/images/{index}.jpg')


def rename(project, name, index=0):
    """Rename an image and its entry."""
    target = project.path('data/train/images') / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(image(project, index), target)
    project.train['images'][index]['file_name'] = name


# Names ----------------------------------------------------------------------


@case(TRAIN)
@pytest.mark.parametrize(
    'name', ['day 1/0.jpg', '0.JPG', '-0.jpg', '圆 🍎.jpg', 'a\nb.jpg', '0', '0.jfif', "it's 100%.jpg"]
)
def test_name(project, name):
    rename(project, name)


@case(TRAIN, error=r'1 of 4 images do not exist: data/train/images/day\\0\.jpg; .*backslash')
def test_backslash(project):
    rename(project, 'day/0.jpg')
    project.train['images'][0]['file_name'] = 'day\\0.jpg'


@case(TRAIN)
def test_absolute_names(project):
    for entry in project.train['images']:
        entry['file_name'] = str(project.path('data/train/images') / entry['file_name'])


@case(TRAIN, error=r'4 of 4 images do not exist: data/train/images/images/0\.jpg')
def test_folder_twice(project):
    for entry in project.train['images']:
        entry['file_name'] = f'images/{entry["file_name"]}'


@case(TRAIN, error=r'4 of 4 images do not exist: .*; there is data/train/images/0\.jpg')
def test_other_suffix(project):
    for entry in project.train['images']:
        entry['file_name'] = entry['file_name'].replace('.jpg', '.png')


@case(TRAIN, error=r'4 of 4 images do not exist: .*; there is data/train/images/0\.JPG')
def test_suffix_in_other_case(project):
    for index in range(4):
        rename(project, f'{index}.JPG', index)
        project.train['images'][index]['file_name'] = f'{index}.jpg'


@case(TRAIN, error=r'1 of 4 images do not exist: data/train/images/2\.jpg')
def test_one_is_missing(project):
    image(project, 2).unlink()


@case(TRAIN, warning=r'1 file names belong to several images \(0\.jpg\)')
def test_name_twice(project):
    project.train['images'][1]['file_name'] = '0.jpg'


@case(TRAIN, error=r'train_dataloader\.\S+data_root = .* is not a folder')
def test_no_root(project):
    project.add("dataset['data_root'] = 'elsewhere/'")


@case(TRAIN, error=r'data_prefix\.img: \S+ is not a folder')
def test_no_folder(project):
    project.add("dataset['data_prefix']['img'] = 'pictures/'")


@case(TRAIN, error=r'data_prefix has img_path, not img')
def test_no_data_prefix(project):
    project.add("dataset.pop('data_prefix')")


# Files ----------------------------------------------------------------------


@case(TRAIN, error=r'1 of 4 images cannot be decoded: \S+2\.jpg')
def test_empty_file(project):
    image(project, 2).write_bytes(b'')


@case(TRAIN, error=r'1 of 4 images cannot be decoded: \S+2\.jpg')
def test_no_image(project):
    image(project, 2).write_text('<html>404</html>')


@case(TRAIN, error=r'1 of 4 images cannot be decoded: \S+2\.jpg')
def test_cut_short(project):
    """OpenCV fills the rest with grey and trains on it."""
    content = image(project, 2).read_bytes()
    image(project, 2).write_bytes(content[: len(content) // 2])


@case(TRAIN)
def test_small_thumbnail_of_exif(project):
    """Two end marks in one file."""
    picture = Image.open(image(project))
    exif = picture.getexif()
    exif[270] = 'a picture'
    picture.save(image(project), exif=exif)


def store(project, name, array, index=0):
    target = project.path('data/train/images') / name
    Image.fromarray(array).save(target)
    project.train['images'][index]['file_name'] = name


@case(TRAIN)
@pytest.mark.parametrize('suffix', ['png', 'bmp', 'tif', 'webp'])
def test_format(project, suffix):
    store(project, f'a.{suffix}', np.full((64, 64, 3), 90, np.uint8))


@case(TRAIN)
def test_grey(project):
    store(project, 'a.png', np.full((64, 64), 90, np.uint8))


@case(TRAIN)
def test_transparent(project):
    store(project, 'a.png', np.full((64, 64, 4), 90, np.uint8))


@case(TRAIN)
def test_16_bits(project):
    """OpenCV keeps the upper 8 bits."""
    cv2.imwrite(str(project.path('data/train/images/a.png')), np.full((64, 64), 40000, np.uint16))
    project.train['images'][0]['file_name'] = 'a.png'


@case(TRAIN, warning=r'1 of 4 images have 16 bits and are nearly black')
def test_12_of_16_bits(project):
    """A camera of 12 bits: OpenCV keeps the upper 8 of 16, so all is nearly black."""
    array = np.random.default_rng(0).integers(0, 4096, (64, 64), np.uint16)
    cv2.imwrite(str(project.path('data/train/images/a.png')), array)
    project.train['images'][0]['file_name'] = 'a.png'


@case(TRAIN)
def test_cmyk(project):
    Image.new('CMYK', (64, 64), (10, 20, 30, 40)).save(project.path('data/train/images/a.jpg'))
    project.train['images'][0]['file_name'] = 'a.jpg'


@case(TRAIN, error=r'1 of 4 images cannot be decoded: \S+a\.heic')
def test_heic(project):
    header = b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(100)
    project.path('data/train/images/a.heic').write_bytes(header)
    project.train['images'][0]['file_name'] = 'a.heic'


# Sizes ----------------------------------------------------------------------


@case(TRAIN, error=r'have another size than width and height .*/0\.jpg is 64x64, not 32x64')
def test_other_size(project):
    for entry in project.train['images']:
        entry['width'] = 32


@case(TRAIN, error=r'are turned by their EXIF orientation')
def test_turned(project):
    for index in range(4):
        picture = Image.open(image(project, index)).crop((0, 0, 64, 62))
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(image(project, index), exif=exif)
        project.train['images'][index]['height'] = 62


@case(TRAIN)
def test_sizes_are_floats(project):
    for entry in project.train['images']:
        entry.update(width=64.0, height=64.0)


@case(TRAIN, error=r"images\[0\]\.height is '64'")
def test_sizes_are_strings(project):
    for entry in project.train['images']:
        entry.update(width='64', height='64')


@case(TRAIN)
def test_image_of_one_pixel(project):
    store(project, 'a.png', np.full((1, 1, 3), 90, np.uint8))
    project.train['images'][0].update(width=1, height=1)
    project.train['annotations'] = project.train['annotations'][2:]


@case(TRAIN)
def test_huge_image(project):
    store(project, 'a.png', np.full((6000, 8000, 3), 90, np.uint8))
    project.train['images'][0].update(width=8000, height=6000)
    for annotation in project.train['annotations'][:2]:
        annotation['bbox'] = [value * 80 for value in annotation['bbox']]
        annotation['area'] *= 6400
        annotation['segmentation'] = [[value * 80 for value in annotation['segmentation'][0]]]
