"""The evaluators of a config: what they compare predictions with, and which metrics they compute."""

import difflib
import os.path as osp
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import METRICS
from torch import nn

from mmnat.config import framework
from mmnat.errors import UserError, abbreviate, warn

from .coco import check_boxes, check_classes, check_ids, let_pycocotools_read_utf8, load_coco
from .masks import REMEDY, find_evaluation_fault
from .objects import Split, nothing_left, warn_of_dropped

_OWN_OBJECTS = "ann_file=None, with 'instances' in meta_keys of PackDetInputs in the pipeline,"
_ONLY_PREDICT = 'format_only=True and outfile_prefix save predictions without an evaluation'


def check_evaluators(cfg: Config, stage: str, splits: Sequence[Split | None], model: nn.Module) -> None:
    """Check that the evaluators of a stage compare predictions with the objects of its data sets.

    Args:
        cfg: The config.
        stage: ``'val'`` or ``'test'``.
        splits: The data sets of the stage; None for one that is not in COCO format.
        model: The model of the config.

    Raises:
        UserError: If an evaluator reads a file that is wrong, or has nothing to evaluate.
    """
    if framework(cfg) != 'mmdet':
        for field, evaluator in _evaluators(cfg, stage):
            _check_iou_metrics(evaluator, field)
        return
    evaluators = list(_evaluators(cfg, stage))
    for field, evaluator in evaluators:
        _check_file(evaluator, field, splits)
        _check_masks_of_model(evaluator, field, model)
        if _is_coco(evaluator):
            _check_arguments(evaluator, field)
    known = [split for split in splits if split is not None]
    if not known or len(known) < len(splits):
        return
    for field, evaluator in evaluators:
        if _is_of_one_data_set(cfg, stage):
            _check_annotations(evaluator, field, known)


def check_monitored(cfg: Config) -> None:
    """Check that the metrics that hooks and schedulers go by are computed in validation.

    Args:
        cfg: The config of a training.

    Raises:
        UserError: If a metric has another name.
    """
    evaluators = list(_evaluators(cfg, 'val'))
    for field, key in _monitored(cfg):
        if cfg.get('val_cfg') is None or not evaluators:
            warn(f'{field} = {key!r}, but the training has no validation; it has no effect')
            continue
        computed: list[str] = []
        for _, evaluator in evaluators:
            keys = _keys(evaluator)
            if keys is None:  # a metric of another package
                computed = []
                break
            computed += keys
        if computed and key not in computed and not _is_classwise(key, evaluators):
            ending = [name for name in computed if name.rpartition('/')[2] == key.rpartition('/')[2]]
            nearest = ending or difflib.get_close_matches(key, computed, n=1) or computed[:1]
            raise UserError(
                f'{field} = {key!r} is no metric of val_evaluator, which computes {abbreviate(computed)}',
                f'write {nearest[0]!r}',
            )
    for field, hook in _hooks(cfg):
        if hook.get('save_best'):
            _check_rule(hook, field)


def _evaluators(cfg: Config, stage: str) -> Iterator[tuple[str, dict]]:
    field = f'{stage}_evaluator'
    value = cfg.get(field)
    if isinstance(value, dict) and 'metrics' in value:
        field, value = f'{field}.metrics', value['metrics']
    if isinstance(value, dict):
        yield field, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield f'{field}[{index}]', item


def _is_of_one_data_set(cfg: Config, stage: str) -> bool:
    """Tell whether each metric gets the predictions of all data sets of the stage."""
    return 'dataset_prefixes' not in cfg[f'{stage}_evaluator']


def _is_local(evaluator: dict) -> bool:
    backend = (evaluator.get('backend_args') or {}).get('backend', 'local')
    return backend in ('local', 'disk') and '://' not in evaluator['ann_file']


def _check_file(evaluator: dict, field: str, splits: Sequence[Split | None]) -> None:
    path = evaluator.get('ann_file')
    if isinstance(path, str) and path and _is_local(evaluator) and not osp.isfile(path):
        files = [split.ann_file for split in splits if split is not None]
        remedy = f'correct it, for example to that of the data set: {files[0]}' if files else 'correct it'
        raise UserError(f'{field}.ann_file: {path} does not exist', remedy)


def _check_arguments(evaluator: dict, field: str) -> None:
    try:
        METRICS.build({**evaluator, 'ann_file': None})
    except Exception as error:  # by which the constructor rejects names of metrics and arguments
        raise UserError(
            f'{field} cannot be built: {abbreviate(error.args)}', 'correct its arguments'
        ) from error


def _check_masks_of_model(evaluator: dict, field: str, model: nn.Module) -> None:
    head = getattr(model, 'roi_head', None)
    if head is not None and not getattr(head, 'with_mask', True) and 'segm' in _metrics(evaluator):
        raise UserError(
            f"{field}.metric has 'segm', but the model predicts no masks: it has no roi_head.mask_head",
            "write metric='bbox', or add a mask_head",
        )


def _check_annotations(evaluator: dict, field: str, splits: Sequence[Split]) -> None:
    path = evaluator.get('ann_file')
    compares = not evaluator.get('format_only') and not str(evaluator.get('type')).startswith('Dump')
    if path:
        if _is_coco(evaluator) and _is_local(evaluator):
            coco = _load(evaluator, path, splits)
            if compares:
                _check_own_file(evaluator, path, coco, field, splits)
    elif compares:
        # The metric takes the objects that the data sets keep.
        silent = [split.field for split in splits if not split.packs_instances]
        if silent and _is_coco(evaluator):
            raise UserError(
                f'{field} has no ann_file, and the pipeline of {silent[0]} does not hand on annotations',
                f'set ann_file to that of the data set, {splits[0].ann_file}, or write {_OWN_OBJECTS}',
            )
        if not any(split.objects for split in splits):
            error = nothing_left(f'{field}: no object is left to evaluate', splits)
            raise (
                error if any(split.annotated for split in splits) else UserError(str(error), _ONLY_PREDICT)
            )
        for split in splits:
            warn_of_dropped(split)
            if _is_coco(evaluator) and 'segm' in _metrics(evaluator):
                coco = load_coco(split.ann_file)
                _check_masks(split.ann_file, coco, split.images, split.classes, field)


def _load(evaluator: dict, path: str, splits: Sequence[Split]) -> dict:
    """Load the annotation file of a CocoMetric, and check that its classes are those of the data sets."""
    let_pycocotools_read_utf8()
    coco = load_coco(path, annotated=False)
    if evaluator.get('sort_categories'):
        coco['categories'].sort(key=lambda category: category['id'])
    for split in splits:
        check_classes(path, coco, split.classes, split.field)
    return coco


def _check_own_file(evaluator: dict, path: str, coco: dict, field: str, splits: Sequence[Split]) -> None:
    check_ids(path, coco, 'annotations')
    check_boxes(path, coco)
    _check_images(path, coco, field, splits)
    annotations = _of_classes(coco, splits[0].classes)
    without = [annotation for annotation in annotations if annotation.get('iscrowd') is None]
    if without:
        raise UserError(
            f'{field}.ann_file: {len(without)} of {len(annotations)} annotations in {path} lack iscrowd, '
            'which pycocotools needs for the evaluation',
            'add "iscrowd": 0 to each',
        )
    if all(annotation['iscrowd'] for annotation in annotations):
        what = 'only crowds' if annotations else 'no annotations'
        raise UserError(
            f'{field}: no object is left to evaluate: {path} has {what} of the classes',
            f'annotate the images, or correct ann_file; {_ONLY_PREDICT}',
        )
    if 'segm' in _metrics(evaluator):
        _check_masks(path, coco, {image['id'] for image in coco['images']}, splits[0].classes, field)


def _of_classes(coco: dict, classes: Sequence[str]) -> list[dict]:
    known = {category['id'] for category in coco['categories'] if category['name'] in classes}
    return [annotation for annotation in coco['annotations'] if annotation['category_id'] in known]


def _check_images(path: str, coco: dict, field: str, splits: Sequence[Split]) -> None:
    names = {image['id']: _stem(image['file_name']) for image in coco['images']}
    shown: dict[int | str, str] = {}
    for split in splits:
        shown.update(split.images)
        other = [file_name for key, file_name in split.images.items() if names.get(key) != _stem(file_name)]
        if other:
            raise UserError(
                f'{field}.ann_file: {path} is of other images than {split.field}: under their ids it does '
                f'not have {len(other)} of {len(split.images)} ({abbreviate(other, 3)})',
                f'set it to that of the data set, {split.ann_file}',
            )
    missed = {item['image_id'] for item in coco['annotations'] if item['image_id'] not in shown}
    if missed:
        warn(
            f'{field}.ann_file: {path} has objects in {len(missed)} images that the data set leaves out; '
            f'all of them count as missed; {_OWN_OBJECTS} evaluates those of the data set only'
        )


def _stem(file_name: str) -> str:
    return osp.splitext(osp.basename(file_name.replace('\\', '/')))[0]


def _check_masks(
    path: str, coco: dict, images: Container[int | str], classes: Sequence[str], field: str
) -> None:
    sizes = {image['id']: (image['height'], image['width']) for image in coco['images']}
    annotations = [item for item in _of_classes(coco, classes) if item['image_id'] in images]
    faulty = []
    for annotation in annotations:
        fault = find_evaluation_fault(annotation.get('segmentation'), sizes[annotation['image_id']])
        if fault is not None:
            faulty.append((annotation['id'], fault))
    if faulty:
        identity, fault = faulty[0]
        raise UserError(
            f"{field}.metric has 'segm', but {len(faulty)} of {len(annotations)} annotations in {path} "
            f'have no mask to compare with: the segmentation of that with id {identity!r} {fault}',
            f"{REMEDY}, or evaluate boxes only: metric='bbox'",
        )


def _is_coco(evaluator: dict) -> bool:
    from mmdet.evaluation import CocoMetric

    return _metric_class(evaluator) is CocoMetric


def _metric_class(evaluator: dict) -> Any:
    kind = evaluator.get('type')
    if not isinstance(kind, str):
        return kind
    with METRICS.switch_scope_and_registry(None) as registry:
        return registry.get(kind)


def _metrics(evaluator: dict) -> list[str]:
    """The metrics of a CocoMetric."""
    value = evaluator.get('metric', 'bbox')
    return [value] if isinstance(value, str) else list(value)


def _hooks(cfg: Config) -> Iterator[tuple[str, dict]]:
    hooks = [(f'default_hooks.{name}', hook) for name, hook in (cfg.get('default_hooks') or {}).items()]
    hooks += [(f'custom_hooks[{index}]', hook) for index, hook in enumerate(cfg.get('custom_hooks') or [])]
    yield from ((field, hook) for field, hook in hooks if isinstance(hook, dict))


def _check_rule(hook: dict, field: str) -> None:
    """Check that mmengine knows whether more or less of the metrics of ``save_best`` is better."""
    names = ('save_best', 'rule', 'greater_keys', 'less_keys')
    try:
        CheckpointHook(**{name: hook[name] for name in names if name in hook})
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(
            f'{field}.save_best = {hook["save_best"]!r}: {abbreviate(error.args)}',
            "correct it, or write rule='greater' or rule='less' beside it",
        ) from error


def _monitored(cfg: Config) -> Iterator[tuple[str, str]]:
    """Yield the fields that name a metric, and the metric."""
    for field, hook in _hooks(cfg):
        for name in ('save_best', 'monitor'):
            value = hook.get(name)
            for key in [value] if isinstance(value, str) else value or []:
                if key != 'auto':
                    yield f'{field}.{name}', key


def _keys(evaluator: dict) -> list[str] | None:
    """The names under which a metric reports; None if they are not known."""
    kind = _metric_class(evaluator)
    names = _NAMES.get(getattr(kind, '__name__', ''))
    if names is None:
        return None
    prefix = evaluator.get('prefix') or kind.default_prefix
    return [f'{prefix}/{name}' if prefix else name for name in names(evaluator)]


def _coco_names(evaluator: dict) -> list[str]:
    if evaluator.get('format_only'):
        return []
    names = []
    for metric in _metrics(evaluator):
        if metric == 'proposal_fast':
            names += [f'AR@{number}' for number in evaluator.get('proposal_nums', (100, 300, 1000))]
        elif metric == 'proposal':
            recall = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')
            names += evaluator.get('metric_items') or recall
        else:
            items = evaluator.get('metric_items') or (
                'mAP',
                *(f'mAP_{part}' for part in ('50', '75', *'sml')),
            )
            names += [f'{metric}_{item}' for item in items]
    return names


# The metrics of IoUMetric, and what each reports.
_OF_IOU = {
    'mIoU': ('mIoU', 'mAcc'),
    'mDice': ('mDice', 'mAcc'),
    'mFscore': ('mFscore', 'mPrecision', 'mRecall'),
}


def _check_iou_metrics(evaluator: dict, field: str) -> None:
    if getattr(_metric_class(evaluator), '__name__', '') != 'IoUMetric':
        return
    unknown = [name for name in evaluator.get('iou_metrics', ['mIoU']) if name not in _OF_IOU]
    if unknown:
        raise UserError(
            f'{field}.iou_metrics has {unknown[0]!r}, which IoUMetric does not compute',
            f'name some of {", ".join(_OF_IOU)}',
        )


def _iou_names(evaluator: dict) -> list[str]:
    if evaluator.get('format_only'):
        return []
    names = [name for metric in evaluator.get('iou_metrics', ['mIoU']) for name in _OF_IOU.get(metric, ())]
    return list(dict.fromkeys(['aAcc', *names]))


# The metrics whose names are known, by their class.
_NAMES: dict[str, Callable[[dict], list[str]]] = {'CocoMetric': _coco_names, 'IoUMetric': _iou_names}


def _is_classwise(key: str, evaluators: Sequence[tuple[str, dict]]) -> bool:
    """Tell whether a metric is that of a single class, whose name is in the annotation file."""
    return key.endswith('_precision') and any(evaluator.get('classwise') for _, evaluator in evaluators)
