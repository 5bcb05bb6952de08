"""Annotation files in COCO format as users have them."""

import gzip
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from user_project import BOXES, case

pytestmark = pytest.mark.long
TRAIN = 'train detector.py'


def write(project, text, encoding='utf-8'):
    """Write another training file than that of the project."""
    project.train = None
    project.path('data/train/coco.json').write_text(text, encoding=encoding)


# The file -------------------------------------------------------------------


@case(TRAIN)
def test_as_it_is(project):
    pass


@case(TRAIN)
def test_byte_order_mark(project):
    """As PowerShell and Notepad write."""
    write(project, json.dumps(project.train), 'utf-8-sig')
    project.val = None
    path = project.path('data/val/coco.json')
    path.write_text(path.read_text(), 'utf-8-sig')


@case(TRAIN, error=r'coco\.json is encoded as UTF-16')
def test_utf_16(project):
    write(project, json.dumps(project.train), 'utf-16')


@case(TRAIN, error=r'coco\.json is compressed')
def test_compressed(project):
    text = json.dumps(project.train)
    project.train = None
    project.path('data/train/coco.json').write_bytes(gzip.compress(text.encode()))


@case(TRAIN, error=r'not JSON or cut short')
def test_cut_short(project):
    write(project, json.dumps(project.train)[:-50])


@case(TRAIN, error=r'not JSON or cut short')
def test_empty_file(project):
    write(project, '')


@case(TRAIN, error=r'is not in COCO format: it holds a list')
def test_list_of_objects(project):
    write(project, json.dumps(project.train['annotations']))


@case(TRAIN, error=r"is not in COCO format: it has no list 'images'")
def test_labelme(project):
    write(project, json.dumps(dict(version='5.0', shapes=[], imagePath='0.jpg', imageData=None)))


@case(TRAIN, error=r'coco\.json .*panoptic')
def test_panoptic(project):
    segments = [dict(id=1, category_id=7, area=576, bbox=[8, 8, 24, 24], iscrowd=0)]
    project.train['annotations'] = [
        dict(image_id=image['id'], file_name='0.png', segments_info=segments)
        for image in project.train['images']
    ]


@case(TRAIN, error=r'images\[0\] lacks file_name')
def test_lvis(project):
    for image in project.train['images']:
        image['coco_url'] = f'http://images.cocodataset.org/train2017/{image.pop("file_name")}'


@case(TRAIN)
def test_numbers_that_are_not(project):
    """Python's json reads and writes NaN; nothing reads the field."""
    project.train['images'][0]['gps'] = float('nan')


# Categories -----------------------------------------------------------------


@case(TRAIN, error=r"metainfo\.classes have another order .*classes = \('square', 'disc'\)")
def test_class_order(project):
    project.train['categories'].reverse()


@case(TRAIN, error=r"the name 'disc' 2 times")
def test_category_twice(project):
    project.train['categories'].append(dict(id=9, name='disc'))
    project.add(BOXES)


@case(TRAIN, error=r'1 ids of categories repeat')
def test_category_id_twice(project):
    project.train['categories'].append(dict(id=7, name='ring'))


@case(TRAIN)
def test_category_ids_from_0(project):
    for coco in (project.train, project.val):
        for category in coco['categories']:
            category['id'] = {7: 0, 3: 1}[category['id']]
        for annotation in coco['annotations']:
            annotation['category_id'] = {7: 0, 3: 1}[annotation['category_id']]


@case(TRAIN)
def test_ids_are_strings(project):
    for coco in (project.train, project.val):
        for category in coco['categories']:
            category['id'] = str(category['id'])
        for annotation in coco['annotations']:
            annotation['category_id'] = str(annotation['category_id'])


@case(TRAIN, error=r"annotations\[0\]\.category_id = '7' is not in 'categories'")
def test_ids_are_strings_in_annotations(project):
    for annotation in project.train['annotations']:
        annotation['category_id'] = str(annotation['category_id'])


@case(TRAIN, error=r'2 of 2 classes \(disc, square\) are not in .*Disc, SQUARE')
def test_names_in_other_case(project):
    for category, name in zip(project.train['categories'], ('Disc', 'SQUARE'), strict=True):
        category['name'] = name


@case(TRAIN, error=r"classes \(disc\) are not in .*'disc '")
def test_white_space_in_name(project):
    project.train['categories'][0]['name'] = 'disc '


@case(TRAIN, error=r'categories\[0\] lacks name')
def test_category_of_supercategory_only(project):
    category = project.train['categories'][0]
    category['supercategory'] = category.pop('name')


@case(TRAIN, error=r"metainfo\.classes = 'disc' is a string")
def test_classes_are_a_string(project):
    project.add("metainfo['classes'] = ('disc')")


@case(TRAIN, error=r'num_classes = 2, .*1 classes')
def test_a_class_left_out(project):
    project.add("metainfo['classes'] = ('disc',)")


@case(TRAIN, warning=r'1 of 3 classes never occur \(ring\)')
def test_class_without_objects(project):
    for coco in (project.train, project.val):
        coco['categories'].append(dict(id=8, name='ring'))
    project.add("metainfo['classes'] = ('disc', 'square', 'ring')")
    project.add("model['roi_head']['bbox_head']['num_classes'] = 3")
    project.add("model['roi_head']['mask_head']['num_classes'] = 3")


@case(TRAIN)
def test_names_in_unicode(project):
    for coco in (project.train, project.val):
        coco['categories'][0]['name'] = '圆 $x$'
    project.add("metainfo['classes'] = ('圆 $x$', 'square')")


# Objects --------------------------------------------------------------------


def spoil_all(project, **fields):
    for annotation in project.train['annotations']:
        annotation.update(fields)


@case(TRAIN, error=r'no object is left to train on: of 8 annotations in \S+ 8 have an area of 0')
def test_areas_of_0(project):
    spoil_all(project, area=0)


@case(TRAIN, error=r'annotations\[0\] lacks area; give each annotation its area')
def test_no_areas(project):
    for annotation in project.train['annotations']:
        del annotation['area']


@case(TRAIN, error=r'lacks bbox')
def test_no_boxes(project):
    for annotation in project.train['annotations']:
        del annotation['bbox']


@case(TRAIN, error=r'8 are crowds')
def test_only_crowds(project):
    spoil_all(project, iscrowd=1)


@case(TRAIN, error=r'8 are marked as ignore')
def test_only_ignored(project):
    spoil_all(project, ignore=1)


@case(TRAIN, error=r'has no annotations')
def test_no_objects(project):
    project.train['annotations'] = []


@case(TRAIN, error=r'seems to hold two corners')
def test_boxes_are_corners(project):
    for annotation in project.train['annotations']:
        x, y, width, height = annotation['bbox']
        annotation['bbox'] = [x, y, x + width, y + height]


@case(TRAIN, error=r'8 are narrower than one pixel')
def test_boxes_of_negative_size(project):
    for annotation in project.train['annotations']:
        x, y, width, height = annotation['bbox']
        annotation['bbox'] = [x + width, y + height, -width, -height]


@case(TRAIN, warning=r'mmdet drops 4 of 8 annotations in \S+: 4 are narrower than one pixel')
def test_some_boxes_of_negative_size(project):
    for annotation in project.train['annotations'][:4]:
        x, y, width, height = annotation['bbox']
        annotation['bbox'] = [x + width, y + height, -width, -height]


@case(TRAIN, error=r'all boxes lie between 0 and 1')
def test_normalized_boxes(project):
    for annotation in project.train['annotations']:
        annotation['bbox'] = [value / 64 for value in annotation['bbox']]


@case(TRAIN, error=r"annotations\[0\]\.bbox is \['8'")
def test_boxes_are_strings(project):
    for annotation in project.train['annotations']:
        annotation['bbox'] = [str(value) for value in annotation['bbox']]


@case(TRAIN, error=r'annotations\[0\]\.bbox is \[8, 8, 24\]')
def test_box_of_3_numbers(project):
    project.train['annotations'][0]['bbox'].pop()


@case(TRAIN, warning=r'drops 4 of 8 annotations .* are narrower than one pixel')
def test_boxes_below_one_pixel(project):
    for annotation in project.train['annotations'][:4]:
        annotation.update(bbox=[*annotation['bbox'][:2], 0.5, 0.5], area=0.25)


@case(TRAIN)
def test_objects_of_one_pixel(project):
    for annotation in project.train['annotations']:
        x, y = annotation['bbox'][:2]
        annotation.update(bbox=[x, y, 1, 1], area=1)
        annotation['segmentation'] = [[x, y, x + 1, y, x + 1, y + 1, x, y + 1]]


@case(TRAIN)
def test_annotation_id_0(project):
    """pycocotools takes id 0 for none; mmdet trains."""
    project.train['annotations'][0]['id'] = 0


@case(TRAIN, error=r'1 ids of annotations repeat')
def test_annotation_id_twice(project):
    project.train['annotations'][1]['id'] = 0


@case(TRAIN, error=r"annotations\[3\]\.image_id = 77 is not in 'images'")
def test_annotation_of_no_image(project):
    project.train['annotations'][3]['image_id'] = 77


@case(TRAIN)
def test_no_iscrowd_in_training(project):
    for annotation in project.train['annotations']:
        del annotation['iscrowd']


@case(TRAIN, error=r'val_evaluator\.ann_file: 2 of 2 annotations in \S+ lack iscrowd')
def test_no_iscrowd_in_validation(project):
    for annotation in project.val['annotations']:
        del annotation['iscrowd']


# Masks ----------------------------------------------------------------------


@case(TRAIN, error=r'2 of 8 annotations .* is missing or empty')
def test_no_segmentation(project):
    for annotation in project.train['annotations'][:2]:
        del annotation['segmentation']


@case(TRAIN)
def test_no_segmentation_for_boxes(project):
    for coco in (project.train, project.val):
        for annotation in coco['annotations']:
            del annotation['segmentation']
    project.add(BOXES)


@case(TRAIN, warning=r'drops 1 of 8 .* have no mask')
def test_empty_polygon(project):
    project.train['annotations'][0]['segmentation'] = [[]]


@case(TRAIN, error=r'is not a list of lists')
def test_flat_polygon(project):
    for annotation in project.train['annotations']:
        annotation['segmentation'] = annotation['segmentation'][0]


@case(TRAIN, error=r'is not a list of lists|not numbers')
def test_polygon_of_points(project):
    for annotation in project.train['annotations']:
        polygon = annotation['segmentation'][0]
        annotation['segmentation'] = [list(map(list, zip(polygon[::2], polygon[1::2], strict=True)))]


@case(TRAIN, error=r'lie outside their boxes')
def test_polygons_of_other_order(project):
    for annotation in project.train['annotations']:
        annotation['bbox'] = [2, 40, 10, 10]
        annotation['segmentation'] = [[40, 2, 50, 2, 50, 12, 40, 12]]


def encode(annotation, compressed=True):
    x, y, width, height = annotation['bbox']
    mask = np.zeros((64, 64), np.uint8, order='F')
    mask[y : y + height, x : x + width] = 1
    encoded = coco_mask.encode(mask)
    return dict(size=[64, 64], counts=encoded['counts'].decode())


@case(TRAIN)
def test_run_lengths(project):
    for coco in (project.train, project.val):
        for annotation in coco['annotations']:
            annotation['segmentation'] = encode(annotation)


@case(TRAIN, error=r'has the size \[32, 64\]')
def test_run_lengths_of_other_size(project):
    for annotation in project.train['annotations']:
        annotation['segmentation'] = dict(encode(annotation), size=[32, 64])


@case(TRAIN, error=r'the masks of 8 of 8 annotations .* lie outside their boxes')
def test_run_lengths_elsewhere(project):
    """Encoded row by row, or of another object."""
    for annotation in project.train['annotations']:
        annotation['segmentation'] = encode(dict(bbox=[0, 0, 4, 4]))


@case(TRAIN, error=r'cannot be decoded|counts')
def test_run_lengths_that_are_none(project):
    for annotation in project.train['annotations']:
        annotation['segmentation'] = dict(size=[64, 64], counts='not run lengths')


@case(TRAIN, error=r'counts')
def test_run_lengths_cut_short(project):
    for annotation in project.train['annotations']:
        encoded = encode(annotation)
        annotation['segmentation'] = dict(encoded, counts=encoded['counts'][: len(encoded['counts']) // 2])
