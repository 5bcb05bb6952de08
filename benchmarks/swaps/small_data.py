"""Put small data and a schedule for training from scratch into a config for a large data set."""

from typing import Any

from mmengine.config import Config

from mmnat.config import read_config
from mmnat.config_tree import walk
from mmnat.swap.plain import plain

from .pairs import Pair

_DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_EVALUATORS = ('val_evaluator', 'test_evaluator')
#: Channels of necks and heads, and counts of proposals: the usual ones, and those of the demo's Mask R-CNN.
_CHANNELS = ('in_channels', 'out_channels', 'feat_channels', 'conv_out_channels')
_NARROWED = {
    **{name: {256: 64} for name in _CHANNELS},
    'fc_out_channels': {1024: 256},
    'num': {256: 128, 512: 64},
    'nms_pre': {2000: 500, 1000: 500},
    'max_per_img': {1000: 200},
}
#: Heads whose number of classes is that of the data; an RPN's single class is not.
_COUNTING = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')


def small_config(pair: Pair) -> Config:
    """The config of a pair, with its own ResNet, for training from scratch on small data.

    Detectors get the narrow neck and heads of the demo's detector, which trains in minutes on a CPU.
    Images and optimizer are those of this project's demos, chosen for a small NAT. Nothing was tuned for
    the ResNet or for the backbone that replaces it.
    """
    cfg, recipe = (plain(read_config(name)) for name in (pair.config, pair.recipe))
    model = cfg['model']
    _start_from_scratch(model)
    _count_classes(model, len(_first(recipe['train_dataloader'], 'metainfo')['classes']))
    if cfg['default_scope'] == 'mmseg':
        model['data_preprocessor'] |= {
            key: recipe['model']['data_preprocessor'][key] for key in ('size', 'test_cfg')
        }
    else:
        _narrow({name: part for name, part in model.items() if name != 'backbone'})
    with_mask = bool(_first(cfg['train_dataloader'], 'with_mask'))
    for field in _DATALOADERS:
        cfg[field] = recipe[field]
        _set_masks(cfg[field], with_mask)
    for field in _EVALUATORS:
        metric = cfg[field].get('metric')
        cfg[field] = recipe[field] | (dict(metric=metric) if metric else {})
    cfg['train_dataloader']['batch_size'] = pair.batch_size
    cfg |= _schedule(pair.iterations)
    cfg |= dict(load_from=None, resume=False, randomness=dict(seed=0))
    return Config(cfg)


def _schedule(iterations: int) -> dict[str, Any]:
    warm_up = max(1, iterations // 8)
    decay = dict(type='CosineAnnealingLR', begin=warm_up, end=iterations, T_max=iterations - warm_up)
    return dict(
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations),
        val_cfg=dict(type='ValLoop'),
        test_cfg=dict(type='TestLoop'),
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
            paramwise_cfg=dict(norm_decay_mult=0.0),
            clip_grad=dict(max_norm=5.0),
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warm_up),
            dict(**decay, eta_min_ratio=0.02, by_epoch=False),
        ],
        default_hooks=dict(
            timer=dict(type='IterTimerHook'),
            logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
            param_scheduler=dict(type='ParamSchedulerHook'),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=100, max_keep_ckpts=1),
            sampler_seed=dict(type='DistSamplerSeedHook'),
        ),
        custom_hooks=[],
        log_processor=dict(type='LogProcessor', window_size=20, by_epoch=False),
    )


def _start_from_scratch(model: dict[str, Any]) -> None:
    """Drop pretrained weights, and train what was frozen because it was pretrained."""
    model.pop('pretrained', None)
    backbone = model['backbone']
    backbone.pop('init_cfg', None)
    backbone |= dict(frozen_stages=-1, norm_eval=False)
    backbone['norm_cfg'] = backbone['norm_cfg'] | dict(requires_grad=True)


def _narrow(value: Any) -> None:
    for _, part in walk(value):
        for name, smaller in _NARROWED.items():
            if isinstance(part.get(name), int):
                part[name] = smaller.get(part[name], part[name])


def _count_classes(model: dict[str, Any], classes: int) -> None:
    for parts in (model, model.get('roi_head') or {}):
        for field in _COUNTING:
            if 'num_classes' in (parts.get(field) or {}):
                parts[field]['num_classes'] = classes


def _set_masks(dataloader: Any, with_mask: bool) -> None:
    for _, part in walk(dataloader):
        if 'with_mask' in part:
            part['with_mask'] = with_mask


def _first(value: Any, key: str) -> Any:
    """The first value of a key anywhere inside, None if there is none."""
    return next((part[key] for _, part in walk(value) if key in part), None)
