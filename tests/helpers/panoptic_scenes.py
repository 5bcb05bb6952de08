"""Generated scenes in the layouts of COCO, ADE20K and Cityscapes: instances, segments and label maps."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from mmnat.data.scenes import OBJECT_CLASSES, SPLITS, STUFF_CLASSES, make_scene

SCENES = {'train': 4, 'val': 1}
# Ids of Cityscapes' labels in the order of its train ids.
CITYSCAPES_LABELS = {
    'road': 7, 'sidewalk': 8, 'building': 11, 'wall': 12, 'fence': 13, 'pole': 17, 'traffic light': 19,
    'traffic sign': 20, 'vegetation': 21, 'terrain': 22, 'sky': 23, 'person': 24, 'rider': 25, 'car': 26,
    'truck': 27, 'bus': 28, 'train': 31, 'motorcycle': 32, 'bicycle': 33,
}  # fmt: skip
CITYSCAPES_THINGS = tuple(CITYSCAPES_LABELS)[-8:]


@dataclass
class Segment:
    """A visible object, or all that there is of a kind of stuff.

    Attributes:
        thing: Index into ``OBJECT_CLASSES``, None for stuff.
        stuff: Index into ``STUFF_CLASSES``, None for things.
        mask: Its pixels.
    """

    thing: int | None
    stuff: int | None
    mask: np.ndarray

    @property
    def box(self) -> list[int]:
        return list(map(int, cv2.boundingRect(self.mask.astype(np.uint8))))

    @property
    def area(self) -> int:
        return int(self.mask.sum())

    def pick(self, things: tuple[str, ...], stuff: tuple[str, ...]) -> str:
        """Its class of a data set with the given classes, which are used from the first to the last."""
        kinds, count, index = things, len(OBJECT_CLASSES), self.thing
        if index is None:
            kinds, count, index = stuff, len(STUFF_CLASSES), self.stuff
        return kinds[index * (len(kinds) - 1) // (count - 1)]


def draw_scene(split: str, index: int) -> tuple[np.ndarray, list[Segment]]:
    """An image and its segments, things first."""
    scene = make_scene(0, split, index)
    things = [Segment(c, None, scene.instances == i) for i, c in enumerate(scene.categories)]
    background = np.where(scene.instances < 0, scene.stuff, 255)
    stuff = [
        Segment(None, kind, background == kind) for kind in range(len(STUFF_CLASSES)) if kind in background
    ]
    return scene.image, things + stuff


def write_coco(root: Path) -> None:
    """Write COCO 2017 with instances and segments to ``data/coco``."""
    from mmdet.datasets import CocoPanopticDataset

    classes = CocoPanopticDataset.METAINFO
    things, stuff = classes['thing_classes'], classes['stuff_classes']
    numbers = {name: 2 * index + 1 for index, name in enumerate((*things, *stuff))}  # with gaps, as in COCO
    folder = root / 'data/coco'
    for split in SPLITS:
        instances, panoptic = _coco_file(numbers, things, ()), _coco_file(numbers, things, stuff)
        for index in range(SCENES[split]):
            image, segments = draw_scene(split, index)
            entry = _image_entry(index + 1, f'{index:012d}.jpg', image)
            _write(folder / f'{split}2017' / entry['file_name'], image)
            _add_instances(instances, entry, segments, things, numbers)
            label_maps = folder / f'annotations/panoptic_{split}2017'
            ids = [1000 * (number + 1) for number in range(len(segments))]
            _add_segments(panoptic, entry, segments, ids, (things, stuff), numbers, label_maps)
        _dump(instances, folder / f'annotations/instances_{split}2017.json')
        _dump(panoptic, folder / f'annotations/panoptic_{split}2017.json')


def write_ade20k(root: Path) -> None:
    """Write ADE20K with what mmdet's ade20k2coco.py makes to ``data/ADEChallengeData2016``.

    mmseg's configs find it in ``data/ade``.
    """
    from mmdet.datasets import ADE20KInstanceDataset, ADE20KPanopticDataset

    classes = ADE20KPanopticDataset.METAINFO
    things, stuff = classes['thing_classes'], classes['stuff_classes']
    numbers = {name: index for index, name in enumerate((*things, *stuff))}
    instance_classes = ADE20KInstanceDataset.METAINFO['classes']
    instance_numbers = {name: index for index, name in enumerate(instance_classes)}
    folder = root / 'data/ADEChallengeData2016'
    for split, long_name in (('train', 'training'), ('val', 'validation')):
        instances = _coco_file(instance_numbers, instance_classes, ())
        panoptic = _coco_file(numbers, things, stuff)
        for index in range(SCENES[split]):
            image, segments = draw_scene(split, index)
            stem = f'ADE_{split}_{index + 1:08d}'
            entry = _image_entry(stem, f'{stem}.jpg', image)
            _write(folder / 'images' / long_name / entry['file_name'], image)
            labels = [1 + numbers[s.pick(things, stuff)] for s in segments]
            _write(folder / 'annotations' / long_name / f'{stem}.png', _paint(segments, labels))
            _add_instances(instances, entry, segments, instance_classes, instance_numbers)
            label_maps = folder / f'ade20k_panoptic_{split}'
            ids = [256 * (number + 1) for number in range(len(segments))]
            _add_segments(panoptic, entry, segments, ids, (things, stuff), numbers, label_maps)
        for segment in (s for a in panoptic['annotations'] for s in a['segments_info']):
            if segment['category_id'] < len(things):
                segment['bbox'][2] = 0  # as wrong as in the real files
        _dump(instances, folder / f'ade20k_instance_{split}.json')
        _dump(panoptic, folder / f'ade20k_panoptic_{split}.json')
    (root / 'data/ade').mkdir()
    (root / 'data/ade/ADEChallengeData2016').symlink_to(folder.resolve())


def write_cityscapes(root: Path) -> None:
    """Write Cityscapes with what cityscapesscripts and mmdet make of it to ``data/cityscapes``.

    The first thing of every scene counts as a group, in which no instances are told apart.
    """
    folder = root / 'data/cityscapes'
    things = CITYSCAPES_THINGS
    stuff = tuple(CITYSCAPES_LABELS)[: -len(things)]
    train_ids = {name: index for index, name in enumerate(CITYSCAPES_LABELS)}
    thing_labels = {name: CITYSCAPES_LABELS[name] for name in things}
    for split in SPLITS:
        instances = _coco_file(thing_labels, things, ())
        panoptic = _coco_file(train_ids, things, stuff)
        for index in range(SCENES[split]):
            image, segments = draw_scene(split, index)
            names = [s.pick(things, stuff) for s in segments]
            city, stem = 'ulm', f'ulm_{index:06d}_000019'
            entry = _image_entry(stem, f'{city}/{stem}_leftImg8bit.png', image)
            _write(folder / 'leftImg8bit' / split / entry['file_name'], image)
            maps = folder / 'gtFine' / split / city
            train_labels = _paint(segments, [train_ids[name] for name in names])
            _write(maps / f'{stem}_gtFine_labelTrainIds.png', train_labels)
            ids = [
                CITYSCAPES_LABELS[name] * 1000 + number
                if segment.thing is not None and number > 0
                else CITYSCAPES_LABELS[name]
                for number, (name, segment) in enumerate(zip(names, segments, strict=True))
            ]
            _write(maps / f'{stem}_gtFine_instanceIds.png', _paint(segments, ids, np.uint16))
            _add_instances(instances, entry, segments[1:], things, thing_labels)
            # cityscapesscripts writes an image's name that does not exist.
            entry = dict(entry, file_name=f'{stem}_gtFine_leftImg8bit.png')
            label_maps = folder / f'gtFine/cityscapes_panoptic_{split}_trainId'
            _add_segments(
                panoptic, entry, segments, ids, (things, stuff), train_ids, label_maps, 'gtFine_panoptic'
            )
            panoptic['annotations'][-1]['segments_info'][0]['iscrowd'] = 1
        _dump(instances, folder / f'annotations/instancesonly_filtered_gtFine_{split}.json')
        _dump(panoptic, folder / f'gtFine/cityscapes_panoptic_{split}_trainId.json')


def _coco_file(numbers: dict[str, int], things: tuple[str, ...], stuff: tuple[str, ...]) -> dict:
    """An empty annotation file; ``numbers`` are the categories' ids, in the order of the file."""
    categories = [
        dict(id=number, name=name, isthing=int(name in things))
        for name, number in numbers.items()
        if name in things or name in stuff
    ]
    return dict(images=[], annotations=[], categories=categories)


def _image_entry(number: int | str, file_name: str, image: np.ndarray) -> dict:
    height, width = image.shape[:2]
    return dict(id=number, file_name=file_name, height=height, width=width)


def _add_instances(
    file: dict, image: dict, segments: list[Segment], things: tuple[str, ...], numbers: dict[str, int]
) -> None:
    file['images'].append(image)
    for segment in (s for s in segments if s.thing is not None):
        rle = mask_utils.encode(np.asfortranarray(segment.mask, np.uint8))
        file['annotations'].append(
            dict(
                id=len(file['annotations']) + 1,
                image_id=image['id'],
                category_id=numbers[segment.pick(things, ())],
                bbox=segment.box,
                area=segment.area,
                iscrowd=0,
                segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
            )
        )


def _add_segments(
    file: dict,
    image: dict,
    segments: list[Segment],
    ids: list[int],
    classes: tuple[tuple[str, ...], tuple[str, ...]],
    numbers: dict[str, int],
    folder: Path,
    kind: str = '',
) -> None:
    """Add an image's segments to the file, and write its label map to the folder."""
    file['images'].append(image)
    name = f'{image["id"]}_{kind}.png' if kind else Path(image['file_name']).stem + '.png'
    segments_info = [
        dict(id=i, category_id=numbers[s.pick(*classes)], area=s.area, bbox=s.box, iscrowd=0)
        for i, s in zip(ids, segments, strict=True)
    ]
    file['annotations'].append(dict(image_id=image['id'], file_name=name, segments_info=segments_info))
    label_map = _paint(segments, ids, np.int64)
    _write(
        folder / name, np.stack([label_map >> 16, label_map >> 8, label_map], -1).astype(np.uint8)
    )  # BGR


def _paint(segments: list[Segment], labels: list[int], dtype: type = np.uint8) -> np.ndarray:
    label_map = np.zeros(segments[0].mask.shape, dtype)
    for segment, label in zip(segments, labels, strict=True):
        label_map[segment.mask] = label
    return label_map


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image), path


def _dump(content: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
