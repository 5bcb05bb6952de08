"""The learning rate of every parameter, by layer."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

pytest.importorskip('mmengine')

from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from mmnat.models import NAT, DiNAT, DiNAT_s
from mmnat.optimizers import NATLayerDecayOptimizerConstructor
from mmnat.quiet import quiet

LR, WEIGHT_DECAY = 1e-4, 0.05
BACKBONES = {
    'NAT-Tiny': lambda: NAT('tiny'),
    'NAT with layer scale': lambda: NAT('mini', layer_scale=1e-5),
    'DiNAT': lambda: DiNAT([[1, 8, 1], [1, 4, 1, 4], [1, 2, 1, 2, 1, 2], [1] * 5], 'mini'),
    'DiNAT_s': lambda: DiNAT_s([[1, 8], [1, 4], [1, 2, 1, 2, 1, 2], [1, 1]], 'tiny'),
}


class Model(nn.Module):
    """A backbone with a head."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))


def on_meta(make):
    with torch.device('meta'):
        return Model(make())


def build(model, weight_decay=WEIGHT_DECAY, **paramwise_cfg):
    cfg = dict(
        constructor='NATLayerDecayOptimizerConstructor',
        optimizer=dict(type='AdamW', lr=LR, weight_decay=weight_decay),
        paramwise_cfg=paramwise_cfg,
    )
    with quiet():
        return build_optim_wrapper(model, cfg).optimizer


def groups_by_name(model, optimizer):
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    return {name: groups.get(id(p)) for name, p in model.named_parameters()}


def steps_from_head(name, depths, by_level):
    """How many layers a parameter is away from the heads; written out from its name."""
    sizes = [1] * len(depths) if by_level else list(depths)
    if name.startswith('backbone.patch_embed.'):
        return sum(sizes) + 1
    block = re.match(r'backbone\.(?:levels|layers)\.(\d)\.blocks\.(\d+)\.', name)
    if block:
        level, index = map(int, block.groups())
        return sum(sizes[level:]) - (0 if by_level else index)
    downsample = re.match(r'backbone\.(?:levels|layers)\.(\d)\.downsample\.', name)
    if downsample:
        return sum(sizes[int(downsample[1]) + 1 :])
    return 0


@pytest.mark.parametrize('decay_type', ['layer_wise', 'stage_wise'])
@pytest.mark.parametrize('backbone', BACKBONES)
def test_rates_and_weight_decay(backbone, decay_type):
    model = on_meta(BACKBONES[backbone])
    depths = [len(level.blocks) for level in getattr(model.backbone, model.backbone.levels_name)]
    groups = groups_by_name(model, build(model, decay_rate=0.9, decay_type=decay_type))
    assert len(groups) > 100
    for name, group in groups.items():
        steps = steps_from_head(name, depths, decay_type == 'stage_wise')
        assert group['lr'] == pytest.approx(LR * 0.9**steps, rel=1e-12), name
        last = name.split('.')[-1]
        free = 'norm' in name or last in ('bias', 'rpb', 'gamma1', 'gamma2') or name == 'head.1.weight'
        assert group['weight_decay'] == (0.0 if free else WEIGHT_DECAY), name
    assert groups['backbone.patch_embed.norm.weight']['lr'] < groups['backbone.norm0.weight']['lr'] == LR


@settings(max_examples=25, deadline=None)
@given(depths=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_number_of_layers(depths, data):
    number = data.draw(st.integers(1, sum(depths)))
    heads = [1] * len(depths)
    sizes = dict(embed_dim=8, depths=depths, num_heads=heads, mlp_ratio=1.0)
    model = on_meta(lambda: NAT(**sizes, out_indices=[len(depths) - 1]))
    groups = groups_by_name(model, build(model, decay_rate=0.5, num_layers=number))
    rates = [
        groups[f'backbone.levels.{i}.blocks.{j}.mlp.fc1.weight']['lr']
        for i, depth in enumerate(depths)
        for j in range(depth)
    ]
    assert rates == sorted(rates)
    assert set(rates) == {LR * 0.5**step for step in range(1, number + 1)}
    counts = [rates.count(rate) for rate in set(rates)]
    assert max(counts) - min(counts) <= 1  # spread evenly
    assert groups['backbone.patch_embed.proj.0.weight']['lr'] == LR * 0.5 ** (number + 1)


def test_more_layers_than_levels():
    # As in mmseg's ConvNeXt configs: 'stage_wise' with num_layers=6.
    model = on_meta(BACKBONES['DiNAT_s'])
    groups = groups_by_name(model, build(model, decay_rate=0.9, decay_type='stage_wise', num_layers=6))
    assert groups['backbone.layers.3.blocks.0.mlp.fc1.weight']['lr'] == pytest.approx(LR * 0.9**3)
    assert groups['backbone.patch_embed.proj.weight']['lr'] == pytest.approx(LR * 0.9**7)


def test_other_settings_of_paramwise_cfg():
    keys = {'norm': dict(decay_mult=0.0), 'mlp': dict(lr_mult=0.5)}
    keys['head'] = dict(lr_mult=10.0, decay_mult=2.0)
    model = on_meta(BACKBONES['DiNAT_s'])
    groups = groups_by_name(model, build(model, decay_rate=0.9, custom_keys=keys))
    assert groups['head.0.weight']['lr'] == pytest.approx(LR * 10)
    assert groups['head.0.weight']['weight_decay'] == WEIGHT_DECAY * 2
    assert groups['head.0.bias']['weight_decay'] == 0
    assert groups['backbone.layers.3.blocks.1.mlp.fc1.weight']['lr'] == pytest.approx(LR * 0.9 * 0.5)


def test_frozen_and_unused_parameters_are_left_out():
    model = on_meta(lambda: NAT('mini', frozen_stages=1, out_indices=(0, 1, 2)))
    groups = groups_by_name(model, build(model, decay_rate=0.9))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name for name, group in groups.items() if group is None} == frozen != set()


def test_shared_parameters_count_once():
    model = on_meta(BACKBONES['DiNAT_s'])
    model.second_head = nn.Sequential(model.head[0])
    optimizer = build(model, decay_rate=0.9)
    ids = [id(p) for group in optimizer.param_groups for p in group['params']]
    assert len(ids) == len(set(ids)) == len(list(model.parameters()))


def test_few_groups():
    # Optimizers run once for each group, so each has as many parameters as possible.
    model = on_meta(BACKBONES['NAT-Tiny'])
    assert len(build(model, decay_rate=0.9).param_groups) == 2 * (30 + 2)


@pytest.mark.parametrize('weight_decay', [0.0, 0.05])
def test_weight_decay_of_the_optimizer(weight_decay):
    model = on_meta(BACKBONES['DiNAT_s'])
    decays = {group['weight_decay'] for group in build(model, weight_decay, decay_rate=0.9).param_groups}
    assert decays == {0.0, weight_decay}


@pytest.mark.parametrize(
    ('paramwise_cfg', 'expected'),
    [
        (dict(), 'needs paramwise_cfg.decay_rate'),
        (dict(decay_rate=1.5), 'decay_rate must be above 0 and at most 1, got 1.5'),
        (dict(decay_rate=0), 'got 0'),
        (dict(decay_rate='0.9'), "got '0.9'"),
        (dict(decay_rate=0.9, decay_type='layer_wise_vit'), "'layer_wise' or 'stage_wise', got 'layer_w"),
        (dict(decay_rate=0.9, num_layers=13), 'at most 12, the number of blocks of DiNAT_s, got 13'),
        (dict(decay_rate=0.9, num_layers=0), 'num_layers must be a positive number, got 0'),
        (dict(decay_rate=0.9, num_layers='12'), "got '12'"),
        (dict(decay_rate=0.9, decay_type='stage_wise', num_layers=3), 'at least 4'),
        (dict(layer_decay_rate=0.9), "no paramwise_cfg.layer_decay_rate; the nearest is 'decay_rate'"),
    ],
)
def test_wrong_settings(paramwise_cfg, expected):
    # mmengine ignores the constructor if paramwise_cfg is empty.
    with pytest.raises(ValueError, match=re.escape(expected)):
        build(on_meta(BACKBONES['DiNAT_s']), **paramwise_cfg)


def test_model_with_another_backbone():
    with pytest.raises(ValueError, match='finds no NAT, DiNAT or DiNAT_s in the model'):
        build(Model(nn.Conv2d(8, 8, 1)), decay_rate=0.9)


def test_optimizer_without_a_rate():
    cfg = dict(optimizer=dict(type='AdamW'))
    with pytest.raises(ValueError, match=r'needs optim_wrapper\.optimizer\.lr'):
        NATLayerDecayOptimizerConstructor(cfg, dict(decay_rate=0.9))


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_visible_in_the_frameworks(scope):
    pytest.importorskip(scope)
    pytest.importorskip(f'{scope}_nat')
    with DefaultScope.overwrite_default_scope(scope):
        assert build(on_meta(BACKBONES['DiNAT_s']), decay_rate=0.9)
