"""Annotation files in COCO format."""

import json
import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmengine.dataset import BaseDataset

from mmnat.errors import UserError, abbreviate

from .images import check_dataset_images

_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'categories': ('id', 'name'),
    'annotations': ('image_id', 'category_id', 'bbox', 'area'),
}


def check_coco_dataset(dataset: BaseDataset, field: str) -> None:
    """Check the annotation file and the images of a data set in COCO format.

    Args:
        dataset: The data set. Nothing is checked if it reads another format.
        field: Where the data set is in the config.
    """
    from mmdet.datasets import CocoDataset, CocoPanopticDataset

    reads_coco = getattr(type(dataset), 'load_data_list', None) is CocoDataset.load_data_list
    if not reads_coco or isinstance(dataset, CocoPanopticDataset):
        return
    if not dataset.ann_file:
        raise UserError(f'{field}.ann_file is empty', 'set it to a COCO annotation file')
    coco = load_coco(dataset.ann_file)
    _check_classes(coco, dataset, field)
    folder = dataset.data_prefix.get('img', '')
    check_dataset_images([osp.join(folder, image['file_name']) for image in coco['images']], field)


def load_coco(path: str, unneeded: Sequence[str] = ()) -> dict:
    """Load an annotation file, and check that it has everything that mmdet reads.

    Args:
        path: The annotation file.
        unneeded: Fields of its entries that may be missing, because something else than mmdet reads it.

    Returns:
        Its content.
    """
    try:
        with open(path, encoding='utf-8') as file:
            coco = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f'annotation file {path} is not JSON or cut short: {error}', 'restore the file'
        ) from error
    except OSError as error:
        raise UserError(
            f'annotation file {path} cannot be read: {error.strerror}', 'correct ann_file'
        ) from error
    if not isinstance(coco, dict):
        raise _not_coco(path, f'it holds a {type(coco).__name__}, not an object')
    for section, fields in _FIELDS.items():
        needed = [name for name in fields if name not in unneeded]
        _check_section(path, section, coco.get(section), needed)
    _check_references(path, coco)
    return coco


def _check_section(path: str, section: str, entries: Any, fields: Sequence[str]) -> None:
    if not isinstance(entries, list):
        raise _not_coco(path, f'it has no list {section!r}')
    if not entries and section != 'annotations':
        raise _not_coco(path, f'its {section!r} are empty')
    for index, entry in enumerate(entries):
        missing = [name for name in fields if not isinstance(entry, dict) or name not in entry]
        if missing:
            raise _not_coco(path, f'{section}[{index}] lacks {", ".join(missing)}')
        for name in fields:
            if not _has_type(name, entry[name]):
                raise _not_coco(path, f'{section}[{index}].{name} is {entry[name]!r}')


def _has_type(name: str, value: Any) -> bool:
    if name in ('file_name', 'name'):
        return isinstance(value, str)
    if name == 'bbox':
        return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))
    if name in ('height', 'width', 'area'):
        return _is_number(value)
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_references(path: str, coco: dict) -> None:
    """Reject annotations that mmdet would drop silently."""
    for key, section in (('image_id', 'images'), ('category_id', 'categories')):
        known = {entry['id'] for entry in coco[section]}
        for index, annotation in enumerate(coco['annotations']):
            if annotation[key] not in known:
                problem = f'annotations[{index}].{key} = {annotation[key]!r} is not in {section!r}'
                raise _not_coco(path, problem)


def _check_classes(coco: dict, dataset: BaseDataset, field: str) -> None:
    """Check that the file has all classes: mmdet would drop the missing ones silently."""
    classes = dataset.metainfo.get('classes')
    if classes is None:
        raise UserError(f'{field}.metainfo has no classes', 'name them, as in the annotation file')
    if isinstance(classes, str):
        raise UserError(
            f'{field}.metainfo.classes = {classes!r} is a string',
            'write a tuple; one of a single class needs a comma: (name,)',
        )
    categories = [category['name'] for category in coco['categories']]
    missing = [name for name in classes if name not in categories]
    if missing:
        raise UserError(
            f'{field}.metainfo.classes: {len(missing)} of {len(classes)} classes '
            f'({abbreviate(missing)}) are not in {dataset.ann_file}, whose categories are '
            f'{abbreviate(categories)}',
            'set metainfo.classes to names of categories in the file',
        )


def _not_coco(path: str, problem: str) -> UserError:
    return UserError(
        f'annotation file {path} is not in COCO format: {problem}', 'correct the file or ann_file'
    )
