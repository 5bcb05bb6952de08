"""The images and objects that mmdet keeps of an annotation file in COCO format."""

import contextlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmengine.dataset import BaseDataset
from torch import nn

from mmnat.errors import UserError, abbreviate, warn

from .coco import check_boxes, check_classes, check_ids, let_pycocotools_read_utf8, load_coco
from .images import check_dataset_images, check_image_sizes
from .masks import REMEDY, find_fault, is_learned, mask_loader, misses_box
from .samples import some

# What mmdet drops without a word, in the order in which it looks, and the remedies.
_REASONS = {
    'are marked as ignore': 'remove "ignore" from them',
    'lie outside their image': 'correct bbox, and width and height of the images',
    'have an area of 0 or less': "give each its area in pixels, at most bbox's width times height",
    'are narrower than one pixel': 'write bbox as left, top, width and height in pixels',
    'are crowds': 'set iscrowd to 0 where they are single objects',
    'have no mask that mmdet loads': 'give each a polygon of at least three points',
}
_INTENDED = ('are marked as ignore', 'are crowds')
_MANY = 0.01  # dropped by mistake, of the objects
_MOST_PLACES = 10_000  # annotations whose masks are compared with their boxes
_MOST = 0.5  # left out by filter_cfg, of the images


@dataclass
class Split:
    """What a data set in COCO format consists of.

    Attributes:
        field: Where the data set is in the config.
        ann_file: Its annotation file.
        classes: The names of its classes.
        images: File names of its images, by id.
        annotated: How many annotations of its classes there are, in these images.
        objects: How many objects there are to learn or to find, by name of the class.
        dropped: How many annotations are not among them, by reason.
        loads_masks: Whether the pipeline loads masks.
        packs_instances: Whether the pipeline hands on the annotations, for a metric without a file.
        paths: The paths of its images.
    """

    field: str
    ann_file: str
    classes: Sequence[str]
    images: dict[int | str, str]
    annotated: int
    objects: Counter[str]
    dropped: Counter[str]
    loads_masks: bool
    packs_instances: bool
    paths: Sequence[str] = ()


def read_split(dataset: BaseDataset, field: str) -> Split | None:
    """Check the annotation file and the images of a data set in COCO format.

    Args:
        dataset: The data set, without its annotations.
        field: Where the data set is in the config.

    Returns:
        What mmdet keeps of it; None if the data set reads another format, which is not checked.

    Raises:
        UserError: If the file or the images are wrong.
    """
    from mmdet.datasets import CocoDataset, CocoPanopticDataset

    reads_coco = getattr(type(dataset), 'load_data_list', None) is CocoDataset.load_data_list
    if not reads_coco or isinstance(dataset, CocoPanopticDataset):
        return None
    path = dataset.ann_file
    if not path:
        raise UserError(f'{field}.ann_file is empty', 'set it to a COCO annotation file')
    if 'img' not in dataset.data_prefix:
        keys = ', '.join(map(str, dataset.data_prefix)) or 'nothing'
        raise UserError(f'{field}.data_prefix has {keys}, not img', "name the folder: dict(img='...')")
    let_pycocotools_read_utf8()
    coco = load_coco(path, annotated=False)  # lists of images to predict have no annotations
    check_classes(path, coco, dataset.metainfo.get('classes'), field)
    check_ids(path, coco, 'annotations')
    check_boxes(path, coco)
    samples = _select(dataset, coco, field)
    images = {image['id']: image for image in coco['images']}
    _check_names(path, [images[sample['img_id']]['file_name'] for sample in samples])
    check_dataset_images([sample['img_path'] for sample in samples], field)
    check_image_sizes(
        [(sample['img_path'], (sample['width'], sample['height'])) for sample in samples],
        dataset,
        field,
    )
    return _describe(dataset, coco, samples, field)


def check_training_objects(data_sets: Sequence[Split | None], loader: str, model: nn.Module) -> None:
    """Check that there is something to learn.

    Args:
        data_sets: All data sets of a training. Nothing is checked if one is None.
        loader: The field of its data loader in the config.
        model: The model to train.

    Raises:
        UserError: If no object is left, or if the model needs masks that the pipeline does not load.
    """
    splits = [split for split in data_sets if split is not None]
    if not splits or len(splits) < len(data_sets):
        return
    if getattr(getattr(model, 'roi_head', None), 'with_mask', False):
        unloaded = [split.field for split in splits if not split.loads_masks]
        if unloaded:
            raise UserError(
                f'model.roi_head has a mask_head, but the pipeline of {unloaded[0]} loads no masks',
                'set with_mask=True in LoadAnnotations, or mask_head=None and mask_roi_extractor=None',
            )
    if not any(split.objects for split in splits):
        raise nothing_left(f'{loader}: no object is left to train on', splits)
    for split in splits:
        if split.annotated and not split.objects:
            warn(f'{nothing_left(f"{split.field}: no object is left to train on", [split])}')
        else:
            warn_of_dropped(split)
    objects = sum((split.objects for split in splits), Counter())
    absent = [name for name in splits[0].classes if not objects[name]]
    if absent:
        warn(
            f'{loader}: {len(absent)} of {len(splits[0].classes)} classes never occur '
            f'({abbreviate(absent)}); the model will not learn them'
        )


def warn_of_dropped(split: Split) -> None:
    """Warn if mmdet drops many annotations that seem to be meant."""
    dropped = Counter({reason: n for reason, n in split.dropped.items() if reason not in _INTENDED})
    if dropped.total() > _MANY * split.annotated:
        reason = dropped.most_common(1)[0][0]
        warn(
            f'{split.field}: mmdet drops {dropped.total()} of {split.annotated} annotations in '
            f'{split.ann_file}: {_as_text(dropped)}; {_REASONS[reason]}'
        )


def nothing_left(problem: str, splits: Sequence[Split]) -> UserError:
    """The error for data sets without objects: ``problem``, followed by the reasons."""
    files = abbreviate(list(dict.fromkeys(split.ann_file for split in splits)), 3)
    count = sum(split.annotated for split in splits)
    dropped = sum((split.dropped for split in splits), Counter())
    if not count or not dropped:
        return UserError(
            f'{problem}: {files} has no annotations of the classes in the images of the data set',
            'annotate the images, or correct ann_file, metainfo.classes or indices',
        )
    reason = dropped.most_common(1)[0][0]
    return UserError(f'{problem}: of {count} annotations in {files} {_as_text(dropped)}', _REASONS[reason])


def find_reason(annotation: dict, image: dict) -> str | None:
    """Tell why mmdet drops an annotation of one of the classes, by ``CocoDataset.parse_data_info``."""
    left, top, width, height = annotation['bbox']
    inner_width = min(left + width, image['width']) - max(left, 0)
    inner_height = min(top + height, image['height']) - max(top, 0)
    if annotation.get('ignore', False):
        return 'are marked as ignore'
    if inner_width <= 0 or inner_height <= 0:
        # A box of no or negative size that begins in its image lies not outside of it.
        inside = 0 <= left < image['width'] and 0 <= top < image['height']
        return 'are narrower than one pixel' if inside else 'lie outside their image'
    if annotation['area'] <= 0:
        return 'have an area of 0 or less'
    if width < 1 or height < 1:
        return 'are narrower than one pixel'
    return 'are crowds' if annotation.get('iscrowd', False) else None


def _as_text(dropped: Counter[str]) -> str:
    return ', '.join(f'{count} {reason}' for reason, count in dropped.most_common())


def _select(dataset: BaseDataset, coco: dict, field: str) -> list[dict]:
    """Let mmdet parse and filter what was loaded, and take ``indices`` of it."""
    from mmdet.datasets.api_wrappers import COCO

    api = COCO()
    api.dataset = coco
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    api.img_ann_map, api.cat_img_map = api.imgToAnns, api.catToImgs
    dataset.COCOAPI = lambda path: api
    dataset.data_list = dataset.load_data_list()
    count = len(dataset.data_list)
    dataset.data_list = dataset.filter_data()
    _check_filter(dataset, count, field)
    _check_indices(dataset, count, field)
    samples = dataset.data_list
    if dataset._indices is not None:
        samples = dataset._get_unserialized_subset(dataset._indices)
    # The checks that follow do without what takes gigabytes for COCO.
    dataset.data_list = []
    del dataset.COCOAPI
    return samples


def _check_filter(dataset: BaseDataset, count: int, field: str) -> None:
    left = len(dataset.data_list)
    if left > (1 - _MOST) * count:
        return
    cfg = ', '.join(f'{key}={value}' for key, value in (dataset.filter_cfg or {}).items())
    problem = f'{field}.filter_cfg ({cfg}) leaves {left} of {count} images in {dataset.ann_file}'
    remedy = 'filter_empty_gt drops images without objects, min_size those with a shorter side'
    if left == 0:
        raise UserError(problem, f'correct filter_cfg or the annotations: {remedy}')
    warn(f'{problem}; {remedy}')


def _check_indices(dataset: BaseDataset, count: int, field: str) -> None:
    indices, left = dataset._indices, len(dataset.data_list)
    images = f'{left} images' if left == count else f'{left} images, of {count} in {dataset.ann_file},'
    remedy = 'remove indices, which may be left from a config for other data, or correct it'
    if isinstance(indices, int):
        if indices == 0:
            raise UserError(f'{field}.indices = 0 leaves no image', remedy)
        if abs(indices) > left:
            warn(f'{field}.indices = {indices}, but there are only {images}: all are taken; {remedy}')
    elif indices is not None:
        if len(indices) == 0:
            raise UserError(f'{field}.indices leaves no image', remedy)
        beyond = [index for index in indices if not -left <= index < left]
        if beyond:
            raise UserError(
                f'{field}.indices: {len(beyond)} of {len(indices)} ({abbreviate(beyond, 3)}) are beyond '
                f'the {images} that there are',
                remedy,
            )


def _check_names(path: str, names: Iterable[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        warn(
            f'{path}: {len(repeated)} file names belong to several images ({abbreviate(repeated, 3)}); '
            'if different images had these names, rename the files'
        )


def _describe(dataset: BaseDataset, coco: dict, samples: Sequence[dict], field: str) -> Split:
    classes, loader = dataset.metainfo['classes'], mask_loader(dataset)
    known = {category['id'] for category in coco['categories'] if category['name'] in classes}
    images = {image['id']: image for image in coco['images']}
    chosen = {sample['img_id']: images[sample['img_id']]['file_name'] for sample in samples}
    poly2mask = getattr(loader, 'poly2mask', True)
    dropped: Counter[str] = Counter()
    faulty, kept = [], []
    annotations = [a for a in coco['annotations'] if a['category_id'] in known and a['image_id'] in chosen]
    for annotation in annotations:
        image = images[annotation['image_id']]
        reason = find_reason(annotation, image)
        if loader is not None and reason in (None, 'are crowds'):
            segmentation = annotation.get('segmentation')
            fault = find_fault(segmentation, (image['height'], image['width']))
            if fault is not None:
                faulty.append((annotation['id'], fault))
            elif reason is None and not is_learned(segmentation, poly2mask):
                reason = 'have no mask that mmdet loads'
        if reason is None:
            kept.append(annotation)
        else:
            dropped[reason] += 1
    if faulty:
        identity, fault = faulty[0]
        raise UserError(
            f'{field}: the pipeline loads masks, but {len(faulty)} of {len(annotations)} annotations in '
            f'{dataset.ann_file} have none that it can load: the segmentation of that with id {identity!r} '
            f'{fault}',
            f'{REMEDY}, or train a detector of boxes: with_mask=False and no mask_head',
        )
    if loader is not None:
        _check_places(kept, dataset.ann_file, field)
    objects = Counter(
        classes[instance['bbox_label']]
        for sample in samples
        for instance in sample['instances']
        if not instance['ignore_flag'] and (loader is None or is_learned(instance.get('mask'), poly2mask))
    )
    return Split(
        field=field,
        ann_file=dataset.ann_file,
        classes=classes,
        images=chosen,
        paths=[sample['img_path'] for sample in samples],
        annotated=len(annotations),
        objects=objects,
        dropped=dropped,
        loads_masks=loader is not None,
        packs_instances=_packs_instances(dataset),
    )


def _check_places(annotations: Sequence[dict], path: str, field: str) -> None:
    """Check that masks lie where the boxes are, in a sample."""
    annotations = some(annotations, _MOST_PLACES)
    misplaced = [a['id'] for a in annotations if misses_box(a['segmentation'], a['bbox'])]
    if len(misplaced) > _MANY * len(annotations):
        problem = (
            f'{field}: the masks of {len(misplaced)} of {len(annotations)} annotations that were looked '
            f'at in {path} lie outside their boxes (ids {abbreviate(misplaced, 3)})'
        )
        remedy = (
            'write segmentation as x1, y1, x2, y2, ... in pixels or as run lengths by columns, and bbox as'
            ' left, top, width and height'
        )
        if len(misplaced) == len(annotations):
            raise UserError(problem, remedy)
        warn(f'{problem}; {remedy}')


def _packs_instances(dataset: BaseDataset) -> bool:
    packed = [getattr(t, 'meta_keys', None) for t in getattr(dataset.pipeline, 'transforms', ())]
    known = [keys for keys in packed if keys is not None]
    return not known or 'instances' in known[-1]
