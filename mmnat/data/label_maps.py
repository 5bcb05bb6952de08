"""Label maps for mmseg of the masks in a COCO annotation file."""

import contextlib
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO

from mmnat.atomic_file import atomic_write
from mmnat.errors import UserError
from mmnat.preflight.coco import load_coco

MOST_CATEGORIES = 254  # labels are bytes, and 255 is mmseg's label for what to ignore


def make_label_maps(annotations: Path, out: Path, held_out: int) -> list[str]:
    """Write the label maps, all or none.

    Args:
        annotations: a COCO annotation file.
        out: a folder that does not exist.
        held_out: how many images, the last of the file, are listed in val.txt instead of train.txt.

    Returns:
        The names of the classes, the background's first.

    Raises:
        UserError: if the annotations have no masks or too many categories, if no image is left to train on,
            or if the folder cannot be written.
    """
    content = load_coco(str(annotations))
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
    with atomic_write(out) as unfinished:
        unfinished.mkdir()
        names = _write_all(content, labels, annotations, unfinished)
        split = len(names) - held_out
        for file, listed in (('train.txt', names[:split]), ('val.txt', names[split:])):
            (unfinished / file).write_text(''.join(f'{name}\n' for name in listed))
    return ['background', *(category['name'] for category in categories)]


def _write_all(content: dict[str, Any], labels: dict[int, int], source: Path, folder: Path) -> list[str]:
    """Write every image's label map, and give the images' names without their suffix."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
    names = []
    for image in content['images']:
        label_map = np.zeros((image['height'], image['width']), np.uint8)
        objects = coco.imgToAnns[image['id']]
        for item in sorted(objects, key=lambda item: item['area'], reverse=True):
            if not item.get('segmentation'):
                raise UserError(
                    f'{source}: annotation {item["id"]} has no mask', 'leave it out of the file'
                )
            label_map[coco.annToMask(item).astype(bool)] = labels[item['category_id']]
        name = Path(image['file_name']).with_suffix('')
        path = folder / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), label_map):
            raise OSError(0, f'{path.name} failed')
        names.append(str(name))
    return names
