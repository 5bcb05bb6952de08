"""Label maps for mmseg of the masks in a COCO annotation file."""

import os.path as osp
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mmnat.atomic_file import atomic_write
from mmnat.errors import UserError, abbreviate, warn
from mmnat.output_files import output_paths
from mmnat.preflight.coco import load_coco

from .coco_masks import NoMask, encode_mask, has_flat_polygon

MOST_CATEGORIES = 254  # labels are bytes, and 255 is mmseg's label for what to ignore


class _Object(NamedTuple):
    name: str  # for messages
    annotation: dict[str, Any]


def make_label_maps(annotations: Path, out: Path, held_out: int) -> list[str]:
    """Write the label maps, all or none.

    Args:
        annotations: a COCO annotation file.
        out: a folder that does not exist.
        held_out: how many images, the last of the file, are listed in val.txt instead of train.txt.

    Returns:
        The names of the classes, the background's first.

    Raises:
        UserError: if an annotation has no mask, if there are too many categories, if no image is left to train
            on, if a label map would lie outside of the folder or two would be one file, or if the folder cannot
            be written.
    """
    content = load_coco(str(annotations), unneeded=('annotations.id', 'annotations.area', 'annotations.bbox'))
    categories = sorted(content['categories'], key=lambda category: category['id'])
    if len(categories) > MOST_CATEGORIES:
        raise UserError(
            f'{annotations} has {len(categories)} categories', f'leave at most {MOST_CATEGORIES} in it'
        )
    if not 0 <= held_out < len(content['images']):
        raise UserError(
            f'--held-out {held_out} of {len(content["images"])} images in {annotations}',
            'hold out fewer than there are, at least 0',
        )
    if out.exists():
        raise UserError(f'{out} exists', 'remove it, or name another folder')
    labels = {category['id']: label for label, category in enumerate(categories, start=1)}
    paths = _file_paths(content, annotations, out)
    objects = _objects_by_image(content, annotations)
    flat: list[str] = []
    with atomic_write(out) as unfinished:
        unfinished.mkdir()
        for image, path in zip(content['images'], paths, strict=True):
            size = int(image['height']), int(image['width'])  # some tools write them as floats
            label_map = _draw(objects[image['id']], size, labels, flat)
            _write(unfinished / path.relative_to(out), label_map)
        names = [str(path.relative_to(out).with_suffix('')) for path in paths]
        split = len(names) - held_out
        for file, listed in (('train.txt', names[:split]), ('val.txt', names[split:])):
            (unfinished / file).write_text(''.join(f'{name}\n' for name in listed), encoding='utf-8')
    if flat:
        warn(
            f'polygons of fewer than three points are left out, as mmdet does: in {abbreviate(flat, 3)}'
        )
    return ['background', *(category['name'] for category in categories)]


def _file_paths(content: dict[str, Any], source: Path, folder: Path) -> list[Path]:
    """The label map of each image."""
    names = []
    for index, image in enumerate(content['images']):
        origin = f'{source}: images[{index}].file_name = {image["file_name"]!r}'
        stem = osp.splitext(image['file_name'])[0]
        if stem != stem.strip() or len(stem.splitlines()) > 1:
            raise UserError(
                f'{origin} has white space at an end, or a line break: no list of mmseg can name it',
                'rename the image',
            )
        names.append((origin, image['file_name']))
    return output_paths(folder, names, '.png')


def _objects_by_image(content: dict[str, Any], source: Path) -> dict[Any, list[_Object]]:
    objects: dict[Any, list[_Object]] = defaultdict(list)
    for index, annotation in enumerate(content['annotations']):
        name = f'annotation {annotation["id"]}' if 'id' in annotation else f'annotations[{index}]'
        objects[annotation['image_id']].append(_Object(f'{source}: {name}', annotation))
    return objects


def _draw(
    objects: list[_Object], size: tuple[int, int], labels: dict[int, int], flat: list[str]
) -> np.ndarray:
    """Draw the label map of an image, and add the names of objects with flat polygons to a list."""
    masks = []
    for name, annotation in objects:
        segmentation = annotation.get('segmentation')
        try:
            mask = encode_mask(segmentation, *size)
        except NoMask as error:
            raise UserError(f'{name} {error}', 'correct it, or leave it out of the file') from error
        if has_flat_polygon(segmentation):
            flat.append(name)
        area = annotation.get('area')
        if not isinstance(area, (int, float)) or area != area:  # only mmdet needs it
            area = float(coco_mask.area(mask))
        masks.append((area, labels[annotation['category_id']], mask))
    label_map = np.zeros(size, np.uint8)
    for _, label, mask in sorted(masks, key=lambda item: item[0], reverse=True):
        label_map[coco_mask.decode(mask).astype(bool)] = label
    return label_map


def _write(path: Path, label_map: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # cv2.imwrite does not say why it fails.
    path.write_bytes(cv2.imencode('.png', label_map)[1].tobytes())
