"""Label maps of segmentors as users have them."""

import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from user_project import case

pytestmark = pytest.mark.long
TRAIN = 'train segmentor.py'
COUNTS = dict(train=4, val=1)


def label_map(project, index=0, split='train'):
    return project.path(f'data/{split}/labels/{index}.png')


def edit(project, change):
    """Change all label maps of both data sets."""
    for split in ('train', 'val'):
        for index in range(COUNTS[split]):
            path = label_map(project, index, split)
            Image.fromarray(change(np.array(Image.open(path)))).save(path)


def add(project, lines):
    project.add(lines, 'segmentor.py')


@case(TRAIN)
def test_as_it_is(project):
    pass


# Values ---------------------------------------------------------------------


@case(TRAIN, error=r'have only the values 0 and 255')
def test_0_and_255(project):
    edit(project, lambda labels: np.where(labels > 0, 255, 0).astype(np.uint8))
    add(project, "metainfo.update(classes=('ground', 'disc'), palette=[[0, 0, 0], [255, 0, 0]])")
    add(project, "model['decode_head']['num_classes'] = 2")
    add(project, "model['auxiliary_head'][0]['num_classes'] = 2")


@case(TRAIN, error=r'0\.png has the values 3 beyond the 3 classes')
def test_labels_from_1(project):
    edit(project, lambda labels: labels + 1)


@case(TRAIN)
def test_labels_from_1_with_reduce_zero_label(project):
    edit(project, lambda labels: labels + 1)
    add(project, "dataset['reduce_zero_label'] = True")
    add(project, "train_pipeline[1]['reduce_zero_label'] = True")
    add(project, "test_pipeline[2]['reduce_zero_label'] = True")
    add(project, "train_dataloader['dataset']['reduce_zero_label'] = True")
    add(project, "test_dataloader['dataset']['reduce_zero_label'] = True")


@case(TRAIN, warning=r'1 of 3 classes are in none of 4 label maps .* square')
def test_reduce_zero_label_by_mistake(project):
    for stage in ('train', 'test'):
        add(project, f"{stage}_dataloader['dataset']['reduce_zero_label'] = True")


@case(TRAIN, warning=r'\.ignore_index = 0 does not make the model ignore')
def test_ignore_index_is_a_class(project):
    add(project, "train_dataloader['dataset']['ignore_index'] = 0")


@case(TRAIN, error=r'head\S*ignore_index = 255, but label maps of \S+ have 254')
def test_ignore_index_of_head_is_another(project):
    edit(project, lambda labels: np.where(labels == 2, 254, labels).astype(np.uint8))
    add(project, "train_dataloader['dataset']['ignore_index'] = 254")
    add(project, "test_dataloader['dataset']['ignore_index'] = 254")


@case(TRAIN, error=r'label maps are in colour')
def test_colours(project):
    edit(project, lambda labels: np.stack([labels * 50] * 3, 2))


@case(TRAIN)
def test_palette(project):
    for split in ('train', 'val'):
        for index in range(COUNTS[split]):
            path = label_map(project, index, split)
            picture = Image.open(path).convert('P')
            picture.putdata(list(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).flatten()))
            picture.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
            picture.save(path)


@case(TRAIN, error=r'has the values .* store label maps as PNG')
def test_jpeg(project):
    for split in ('train', 'val'):
        for index in range(COUNTS[split]):
            path = label_map(project, index, split)
            Image.fromarray(np.array(Image.open(path)) * 100).save(path.with_suffix('.jpg'), quality=60)
            path.unlink()
    add(project, "train_dataloader['dataset']['seg_map_suffix'] = '.jpg'")
    add(project, "test_dataloader['dataset']['seg_map_suffix'] = '.jpg'")


@case(TRAIN, error=r'mmseg keeps 8 bits')
def test_16_bits(project):
    edit(project, lambda labels: labels.astype(np.uint16) * 1000)


@case(TRAIN)
def test_16_bits_of_small_values(project):
    edit(project, lambda labels: labels.astype(np.uint16))


@case(TRAIN, error=r'every pixel is 255')
def test_nothing_is_labelled(project):
    edit(project, lambda labels: np.full_like(labels, 255))


@case(TRAIN)
def test_bilevel_png(project):
    edit(project, lambda labels: labels > 0)
    add(project, "metainfo.update(classes=('ground', 'disc'), palette=[[0, 0, 0], [255, 0, 0]])")
    add(project, "model['decode_head']['num_classes'] = 2")
    add(project, "model['auxiliary_head'][0]['num_classes'] = 2")


# Files ----------------------------------------------------------------------


@case(TRAIN, error=r'have not the size of their image: \S+0\.png is 32x32')
def test_other_size(project):
    Image.open(label_map(project)).resize((32, 32), Image.Resampling.NEAREST).save(label_map(project))


@case(TRAIN, error=r'1 of 4 images have no label map: \S+2\.png')
def test_one_is_missing(project):
    label_map(project, 2).unlink()


@case(TRAIN, error=r'4 of 4 images have no label map: .*; there is data/train/labels/0\.PNG')
def test_suffix_in_upper_case(project):
    for index in range(4):
        shutil.move(label_map(project, index), label_map(project, index).with_suffix('.PNG'))


@case(TRAIN, warning=r'1 label maps in \S+ are not used')
def test_more_label_maps_than_images(project):
    project.path('data/train/images/3.jpg').unlink()


@case(TRAIN, error=r'1 of 4 images cannot be decoded|label map \S+1\.png cannot be decoded')
def test_empty_label_map(project):
    label_map(project, 1).write_bytes(b'')


@case(TRAIN, error=r'label map \S+1\.png cannot be decoded|cut short')
def test_label_map_cut_short(project):
    content = label_map(project, 1).read_bytes()
    label_map(project, 1).write_bytes(content[: len(content) // 2])


@case(TRAIN, error=r'no \*\.jpg in \S+, but 4 \.JPG')
def test_images_in_upper_case(project):
    for index in range(4):
        path = project.path(f'data/train/images/{index}.jpg')
        shutil.move(path, path.with_suffix('.JPG'))


@case(TRAIN, warning=r'1 of 4 images in \S+ do not end in img_suffix')
def test_mixed_suffixes(project):
    path = project.path('data/train/images/0.jpg')
    shutil.move(path, path.with_suffix('.png'))


@case(TRAIN)
def test_folders(project):
    for name in ('images', 'labels'):
        folder = project.path(f'data/train/{name}')
        (folder / 'day 1').mkdir()
        for path in list(folder.glob('*.*')):
            shutil.move(path, folder / 'day 1' / path.name)


@case(TRAIN, error=r'have no label map: data/train/images/0\.png')
def test_no_data_prefix(project):
    add(project, "train_dataloader['dataset'].pop('data_prefix')")


@case(TRAIN, error=r'data_prefix has img, seg, not img_path')
def test_data_prefix_of_mmdet(project):
    add(project, "train_dataloader['dataset']['data_prefix'] = dict(img='images', seg='labels')")


@case(TRAIN, error=r'data_prefix has no seg_map_path')
def test_no_folder_of_label_maps(project):
    add(project, "train_dataloader['dataset']['data_prefix'] = dict(img_path='images')")


# Lists ----------------------------------------------------------------------


def write_list(project, content):
    project.path('data/train/train.txt').write_bytes(content)
    add(project, "train_dataloader['dataset']['ann_file'] = 'train.txt'")


@case(TRAIN)
def test_list(project):
    write_list(project, b'0\n1\n2\n')


@case(TRAIN)
def test_windows_line_ends(project):
    write_list(project, b'0\r\n1\r\n2\r\n')


@case(TRAIN, error=r'line 2, is empty')
def test_blank_line(project):
    write_list(project, b'0\n\n1\n')


@case(TRAIN, error=r'write names without suffix')
def test_names_with_suffix(project):
    write_list(project, b'0.jpg\n1.jpg\n')


@case(TRAIN, error=r'names are not of an image; the first is .*ufeff')
def test_list_with_byte_order_mark(project):
    write_list(project, b'\xef\xbb\xbf0\n1\n')


@case(TRAIN, error=r'train\.txt is not UTF-8')
def test_list_in_utf_16(project):
    write_list(project, '0\n1\n'.encode('utf-16'))


@case(TRAIN, error=r"names are not of an image; the first is 'images/0'")
def test_names_with_folder(project):
    write_list(project, b'images/0\nimages/1\n')


@case(TRAIN, error=r"names are not of an image; the first is '0\.jpg 0\.png'")
def test_pairs(project):
    write_list(project, b'0.jpg 0.png\n1.jpg 1.png\n')


@case(TRAIN, error=r'no label map')
def test_absolute_names(project):
    """os.path.join leaves out the folders, of label maps too."""
    folder = project.path('data/train/images').absolute()
    write_list(project, f'{folder}/0\n{folder}/1\n'.encode())


@case(TRAIN, warning=r'has 2 names more than once: 0, 1')
def test_names_twice(project):
    write_list(project, b'0\n1\n0\n1\n')


@case(TRAIN, error=r'is empty')
def test_empty_list(project):
    write_list(project, b'')


@case(TRAIN, error=r'ann_file: \S+train\.txt does not exist')
def test_no_list(project):
    add(project, "train_dataloader['dataset']['ann_file'] = 'train.txt'")


# Classes --------------------------------------------------------------------


@case(TRAIN, error=r'decode_head\.num_classes = 3, .* but \S+metainfo has 4 classes')
def test_more_classes(project):
    add(project, "metainfo.update(classes=('a', 'b', 'c', 'd'), palette=[[0, 0, 0]] * 4)")


@case(TRAIN, error=r'palette')
def test_palette_of_other_length(project):
    add(project, "metainfo['palette'] = [[0, 0, 0]]")


@case(TRAIN, error=r"metainfo\.classes = 'ground' is a string")
def test_classes_are_a_string(project):
    add(project, "metainfo['classes'] = 'ground'")


@case('test segmentor.py segmentor.pth --show-dir shown', error=r'a side of one pixel')
def test_image_of_one_pixel(project, trained):
    project.take_checkpoints(trained)
    for name in ('images/0.jpg', 'labels/0.png'):
        array = np.zeros((1, 1), np.uint8)
        cv2.imwrite(str(project.path('data/val') / name), array)
