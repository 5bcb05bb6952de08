"""The configs of the published models against the released recipes.

data/published_recipes.json holds the arguments of the configs that were released with the papers
(SHI-Labs/Neighborhood-Attention-Transformer), with the results in its READMEs.
"""

import json
from pathlib import Path

import pytest

from mmnat import models
from mmnat.config import read_config
from mmnat.config_files import project_folder
from mmnat.zoo import published_models

ROOT = project_folder()
RECIPES = json.loads((Path(__file__).parents[1] / 'data/published_recipes.json').read_text())


def config_of(recipe):
    """The config file of a released one."""
    folder = recipe['family']
    backbone = f'{folder.replace("_", "-")}-{recipe["variant"]}'
    amp = 'amp-' if recipe['mixed_precision'] else ''
    if recipe['task'] == 'detection':
        kind = recipe['architecture'].lower().replace(' ', '-').replace('r-cnn', 'rcnn')
        return f'configs/{folder}/{kind}_{backbone}_fpn_{amp}ms-crop-3x_coco.py'
    size = 640 if recipe['variant'] == 'large' else 512
    return f'configs/{folder}/{backbone}_upernet_8xb2-{amp}160k_ade20k-{size}x{size}.py'


def as_lists(value):
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda recipe: recipe['name'])
def test_config_is_the_released_recipe(recipe):
    cfg = read_config(str(ROOT / config_of(recipe)))
    published = published_models()[config_of(recipe)]
    ours, theirs = dict(cfg.model.backbone), recipe['backbone']
    arch = getattr(models, ours['type']).arch_zoo[ours.pop('arch')]
    settings = {**arch, 'kernel_size': 7, 'layer_scale': None, **ours}
    for name, value in theirs.items():
        expected = dict(qkv_bias=True, drop_rate=0.0, attn_drop_rate=0.0, frozen_stages=-1, patch_norm=True)
        if name in expected:  # our defaults, or what we always do
            assert value == expected[name] and name not in ours
        else:
            assert as_lists(settings[name]) == value, name
    assert settings['layer_scale'] == theirs.get('layer_scale')
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=recipe['pretrained'])
    assert published.weights == recipe['checkpoint']

    optimizer = {name: as_lists(value) for name, value in cfg.optim_wrapper.optimizer.items()}
    released = dict(recipe['optimizer'])
    no_decay = released.pop('no_decay_keys')
    assert optimizer == released
    # DiNAT_s has no absolute position embedding that a key could be about.
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert {*keys} == {*no_decay} - {'absolute_pos_embed'}
    assert all(key == dict(decay_mult=0.0) for key in keys.values())
    wrapper = 'AmpOptimWrapper' if recipe['mixed_precision'] else 'OptimWrapper'
    assert cfg.optim_wrapper.type == wrapper
    assert cfg.auto_scale_lr.base_batch_size == recipe['batch_size_total'] == 16
    assert cfg.train_dataloader.batch_size == 2

    results = {name: value for metrics in published.results.values() for name, value in metrics.items()}
    names = {'bbox_mAP': 'box AP', 'segm_mAP': 'mask AP', 'mIoU_ms': 'mIoU(ms+flip)', 'mIoU': 'mIoU'}
    assert results == {names[k]: v for k, v in recipe['published'].items() if k in names}
    assert published.params == recipe['published']['params_m']
    assert published.macs == recipe['published']['gmacs']
    (check_detector if recipe['task'] == 'detection' else check_segmentor)(cfg, recipe)


def check_detector(cfg, recipe):
    assert cfg.model.neck.in_channels == recipe['neck_in_channels']
    schedule = recipe['schedule']
    warmup, steps = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == steps.end == schedule['epochs']
    assert steps.milestones == schedule['lr_steps'] and steps.gamma == 0.1
    assert (warmup.end, warmup.start_factor) == (schedule['warmup_iters'], schedule['warmup_ratio'])
    if recipe['architecture'] == 'Cascade Mask R-CNN':
        heads = cfg.model.roi_head.bbox_head
        assert [head.type for head in heads] == ['ConvFCBBoxHead'] * 3
        assert {head.loss_bbox.type for head in heads} == {'GIoULoss'}
        stds = [head.bbox_coder.target_stds[0] for head in heads]
        thresholds = [rcnn.assigner.pos_iou_thr for rcnn in cfg.model.train_cfg.rcnn]
        assert (stds, thresholds) == ([0.1, 0.05, 0.033], [0.5, 0.6, 0.7])


def check_segmentor(cfg, recipe):
    assert cfg.model.decode_head.in_channels == recipe['head_in_channels']
    assert cfg.model.auxiliary_head.in_channels == recipe['aux_in_channels']
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 150
    schedule = recipe['schedule']
    warmup, poly = cfg.param_scheduler
    assert cfg.train_cfg.max_iters == poly.end == schedule['iters']
    assert (poly.power, poly.eta_min) == (schedule['power'], schedule['min_lr'])
    assert (warmup.end, warmup.start_factor) == (schedule['warmup_iters'], schedule['warmup_ratio'])
    side = 640 if recipe['variant'] == 'large' else 512
    crop = next(t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'RandomCrop')
    assert tuple(crop.crop_size) == tuple(cfg.model.data_preprocessor.size) == (side, side)
    sizes, flips = cfg.tta_pipeline[1].transforms[:2]
    assert [min(resize.scale) / side for resize in sizes] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert [flip.prob for flip in flips] == [0.0, 1.0]
