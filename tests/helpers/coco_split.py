"""A small data set in COCO format, to be spoiled."""

import copy
import json

import cv2
import numpy as np

CLASSES = ('box', 'disc')
SIZE = (80, 60)


def new_coco():
    """Three images of 80x60, with a box and a disc each."""
    coco = dict(images=[], annotations=[])
    coco['categories'] = [dict(id=5, name='box'), dict(id=2, name='disc')]
    for index in range(3):
        coco['images'].append(dict(id=index, file_name=f'{index}.jpg', width=SIZE[0], height=SIZE[1]))
        for category, left in ((5, 4), (2, 44)):
            corners = [left, 10, left + 30, 10, left + 30, 40, left, 40]
            coco['annotations'].append(
                dict(
                    id=len(coco['annotations']) + 1,
                    image_id=index,
                    category_id=category,
                    bbox=[left, 10, 30, 30],
                    area=900,
                    iscrowd=0,
                    segmentation=[corners],
                )
            )
    return coco


def write_images(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(3):
        cv2.imwrite(str(folder / f'{index}.jpg'), np.full((SIZE[1], SIZE[0], 3), 90, np.uint8))


def edited(edit):
    """The data set after ``edit``, which changes it or returns another."""
    coco = copy.deepcopy(new_coco())
    return edit(coco) or coco


def write_coco(path, coco, **options):
    path.write_text(json.dumps(coco), **options)
    return str(path)
