"""Annotation files in COCO format."""

import functools
import json
import os.path as osp
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.coco

from mmnat.errors import UserError, abbreviate, brief, warn

_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'categories': ('id', 'name'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
}
_REMEDIES = {
    'annotations.id': 'number the annotations, each with an id of its own',
    'annotations.area': "give each annotation its area in pixels, at most bbox's width times height",
}
# How files begin that are not JSON in UTF-8, what they are, and the remedy.
_BEGINNINGS = (
    (b'\xff\xfe', 'encoded as UTF-16', 'save it as UTF-8'),
    (b'\xfe\xff', 'encoded as UTF-16', 'save it as UTF-8'),
    (b'\x1f\x8b', 'compressed (gzip)', 'decompress it'),
    (b'PK', 'compressed (zip)', 'decompress it'),
)
_LARGEST = 1e9  # no image has so many pixels in a row, and NaN is not below it
_MOST_PIXELS = 2**30  # OpenCV's limit of an image
# Boxes may reach beyond their image by this part of its size before they seem wrong ...
_BEYOND = 0.1
# ... and this part of them may.
_FEW = 0.01


def load_coco(path: str, annotated: bool = True, unneeded: Sequence[str] = ()) -> dict:
    """Load an annotation file, and check that it has everything that mmdet reads.

    Args:
        path: The annotation file.
        annotated: Whether it has to have a list of annotations, which may be empty.
        unneeded: Fields that may be missing, such as 'annotations.area', because mmdet does not read it.

    Returns:
        Its content.

    Raises:
        UserError: If it cannot be read or is not in COCO format.
    """
    check_regular(path, 'annotation file')
    try:
        with open(path, encoding='utf-8-sig') as file:
            coco = json.load(file)
    except RecursionError as error:
        raise _not_coco(path, 'its lists or objects are nested too deep') from error
    except ValueError as error:  # also of UTF-8, and of a number of thousands of digits
        raise _not_json(path, error) from error
    except OSError as error:
        raise UserError(
            f'annotation file {path} cannot be read: {error.strerror}', 'correct ann_file'
        ) from error
    if not isinstance(coco, dict):
        raise _not_coco(path, f'it holds a {type(coco).__name__}, not an object')
    if not annotated:
        coco.setdefault('annotations', [])
    for section, fields in _FIELDS.items():
        needed = [name for name in fields if f'{section}.{name}' not in unneeded]
        _check_section(path, section, coco.get(section), needed)
    for index, image in enumerate(coco['images']):
        if image['width'] * image['height'] > _MOST_PIXELS:
            size = f'{image["width"]:.0f}x{image["height"]:.0f}'
            raise _not_coco(path, f'images[{index}] is of {size} pixels, more than OpenCV reads')
    _check_references(path, coco)
    for section in ('images', 'categories'):
        check_ids(path, coco, section)
    return coco


def check_regular(path: str, what: str) -> None:
    """Raise :class:`UserError` for a folder, a device or a pipe, from which reading may not end."""
    if osp.exists(path) and not osp.isfile(path):
        raise UserError(f'{what} {path} is not a file', 'name a file')


def let_pycocotools_read_utf8() -> None:
    """Make pycocotools read annotation files as UTF-8, also those that begin with a byte order mark.

    It opens them in the encoding of the locale and has no argument for another.
    """
    pycocotools.coco.open = functools.partial(open, encoding='utf-8-sig')


def check_ids(path: str, coco: dict, section: str) -> None:
    """Raise :class:`UserError` if ids repeat in a section: the last entry would replace the others.

    Ids that are in part numbers, in part strings have no order, which pycocotools needs.
    """
    if len({type(entry['id']) for entry in coco[section]}) > 1:
        raise _not_coco(path, f'ids of {section} are in part numbers, in part strings')
    counts = Counter(entry['id'] for entry in coco[section])
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        shown = abbreviate([brief(key) for key in repeated], 3)
        raise UserError(
            f'annotation file {path}: {len(repeated)} ids of {section} repeat ({shown})',
            f'number the {section} anew, each with an id of its own, as after merging files',
        )


def check_classes(path: str, coco: dict, classes: Sequence[str] | None, field: str) -> None:
    """Check that labels, which follow the order of the file, belong to the names of the classes.

    Args:
        path: The annotation file.
        coco: Its content.
        classes: The names of the classes of the data set.
        field: Where the data set is in the config.

    Raises:
        UserError: If the file lacks a class, or if mmdet would number the classes in another order.
    """
    if not classes:
        raise UserError(f'{field}.metainfo has no classes', 'name them, as in the annotation file')
    if isinstance(classes, str):
        raise string_of_classes(field, classes)
    categories = [category['name'] for category in coco['categories']]
    missing = [name for name in classes if name not in categories]
    if missing:
        raise UserError(
            f'{field}.metainfo.classes: {len(missing)} of {len(classes)} classes '
            f'({abbreviate(missing)}) are not in {path}, whose categories are '
            f'{abbreviate(_shown(categories))}',
            'set metainfo.classes to names of categories in the file',
        )
    _check_order(path, coco, list(classes), field)


def string_of_classes(field: str, classes: str) -> UserError:
    """The error for ``classes=('cat')``, each letter of which would be a class."""
    return UserError(
        f'{field}.metainfo.classes = {classes!r} is a string',
        'write a tuple; one of a single class needs a comma: (name,)',
    )


def check_boxes(path: str, coco: dict) -> None:
    """Check that boxes are given as mmdet reads them: left, top, width and height in pixels.

    Args:
        path: The annotation file.
        coco: Its content.

    Raises:
        UserError: If all boxes are within 0..1, or if they are corners.
    """
    if not coco['annotations']:
        return
    sizes = {image['id']: (image['width'], image['height']) for image in coco['images']}
    size = np.array([sizes[annotation['image_id']] for annotation in coco['annotations']], float)
    boxes = np.array([annotation['bbox'] for annotation in coco['annotations']], float)
    if boxes.min() >= 0 and 0 < boxes.max() <= 1:
        raise UserError(
            f'annotation file {path}: all boxes lie between 0 and 1, as if divided by the image size',
            'multiply bbox, area and segmentation, so that they are in pixels',
        )
    first, last = boxes[:, :2], boxes[:, 2:]
    beyond = (first + last > (1 + _BEYOND) * size).any(axis=1) | (first < -_BEYOND * size).any(axis=1)
    if beyond.mean() <= _FEW:
        return
    index = int(beyond.argmax())
    example = f'annotations[{index}].bbox is {coco["annotations"][index]["bbox"]}'
    where = f'in an image of {size[index, 0]:.0f}x{size[index, 1]:.0f}'
    if (first >= 0).all() and (first < last).all() and (last <= size).all():
        raise UserError(
            f'annotation file {path}: bbox seems to hold two corners ({example} {where})',
            'write left, top, width and height',
        )
    warn(
        f'{path}: {beyond.sum()} of {len(boxes)} boxes reach far beyond their image ({example} {where}); '
        'bbox is left, top, width and height in pixels, check it, and width and height of the images'
    )


def _not_json(path: str, error: Exception) -> UserError:
    with open(path, 'rb') as file:
        content = file.read(4)
    for beginning, what, remedy in _BEGINNINGS:
        if content.startswith(beginning):
            return UserError(f'annotation file {path} is {what}', remedy)
    return UserError(f'annotation file {path} is not JSON or cut short: {error}', 'restore the file')


def _check_section(path: str, section: str, entries: Any, fields: Sequence[str]) -> None:
    if not isinstance(entries, list):
        raise _not_coco(path, f'it has no list {section!r}')
    if not entries and section != 'annotations':
        raise _not_coco(path, f'its {section!r} are empty')
    for index, entry in enumerate(entries):
        missing = [name for name in fields if not isinstance(entry, dict) or name not in entry]
        if missing and isinstance(entry, dict) and 'segments_info' in entry:
            raise UserError(
                f'annotation file {path} is of panoptic segmentation: {section}[{index}] has segments_info',
                "use type='CocoPanopticDataset', or an annotation file of instances",
            )
        if missing:
            remedy = _REMEDIES.get(f'{section}.{missing[0]}') if len(missing) == 1 else None
            raise _not_coco(path, f'{section}[{index}] lacks {", ".join(missing)}', remedy)
        for name in fields:
            if not _has_type(name, entry[name]):
                raise _not_coco(path, f'{section}[{index}].{name} is {brief(entry[name])}')
        if entry.get('iscrowd') not in (None, 0, 1):
            raise _not_coco(path, f'{section}[{index}].iscrowd is {brief(entry["iscrowd"])}, not 0 or 1')


def _has_type(name: str, value: Any) -> bool:
    if name in ('file_name', 'name'):
        return isinstance(value, str)
    if name == 'bbox':
        return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))
    if name == 'area':
        return _is_number(value)
    if name in ('height', 'width'):
        return _is_number(value) and value > 0 and value == int(value)
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def _check_references(path: str, coco: dict) -> None:
    """Reject annotations that mmdet would drop silently."""
    for key, section in (('image_id', 'images'), ('category_id', 'categories')):
        known = {entry['id'] for entry in coco[section]}
        for index, annotation in enumerate(coco['annotations']):
            if annotation[key] not in known:
                problem = f'annotations[{index}].{key} = {brief(annotation[key])} is not in {section!r}'
                raise _not_coco(path, problem)


def _check_order(path: str, coco: dict, classes: list[str], field: str) -> None:
    categories = [category for category in coco['categories'] if category['name'] in classes]
    names = [category['name'] for category in categories]
    for kind, listed in ((f'{field}.metainfo.classes', classes), (f'the categories of {path}', names)):
        name, count = Counter(listed).most_common(1)[0]
        if count > 1:
            ids = [str(category['id']) for category in categories if category['name'] == name]
            which = '' if listed is classes else f', with the ids {abbreviate(ids)}'
            raise UserError(
                f'{field}: {kind} have the name {name!r} {count} times{which}; mmdet gives each a label',
                'leave one of them, and let the annotations refer to it',
            )
    if names == classes:
        return
    label, name, other = next(
        (label, *pair) for label, pair in enumerate(zip(names, classes, strict=True)) if len({*pair}) > 1
    )
    raise UserError(
        f'{field}.metainfo.classes have another order than the categories of {path}: mmdet numbers them '
        f'as the file does, so that objects of {name!r} (label {label}) would be named {other!r}',
        f'write classes = {_as_tuple(names)}',
    )


def _shown(names: Sequence[str]) -> Sequence[str]:
    """Quote names for a message if one begins or ends with white space, which would not be seen."""
    return [repr(name) for name in names] if any(name != name.strip() for name in names) else names


def _as_tuple(names: Sequence[str]) -> str:
    if len(names) > 20:
        return 'the names in the order of the file'
    return str(tuple(names))


def _not_coco(path: str, problem: str, remedy: str | None = None) -> UserError:
    return UserError(
        f'annotation file {path} is not in COCO format: {problem}', remedy or 'correct the file or ann_file'
    )
