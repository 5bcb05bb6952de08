"""The optimizer before a run: can it be built, and is the training state of a checkpoint its own?"""

import copy

import pytest
import torch

pytest.importorskip('mmengine')

from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from mmnat.config import register_modules
from mmnat.errors import UserError, warn
from mmnat.models import NAT
from mmnat.optimizers import NATLayerDecayOptimizerConstructor
from mmnat.preflight.optimizer import BY_LAYER, build_optimizer, check_optimizer_state

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
ADAMW = dict(type='AdamW', lr=1e-3, weight_decay=0.05)


@pytest.fixture(autouse=True)
def _fresh():
    warn.cache_clear()


def model(backbone=None):
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    if backbone is not None:
        module.backbone = backbone
    return module


def config(optimizer, **fields):
    top = {name: fields.pop(name) for name in ('runner_type', 'auto_scale_lr') if name in fields}
    return Config(dict(optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer, **fields), **top))


def trained(optimizer, module=None, scheduled=False, **fields):
    """The state of an optimizer after a step."""
    module = module or model()
    wrapper = build_optimizer(config(optimizer, **fields), module)
    if scheduled:
        torch.optim.lr_scheduler.StepLR(wrapper.optimizer, 1, gamma=0.1)
        for group in wrapper.optimizer.param_groups:
            group['lr'] *= 0.1
    module(torch.rand(2, 4)).sum().backward()
    wrapper.optimizer.step()
    return copy.deepcopy(wrapper.state_dict())


def check(saved, optimizer, module=None, **fields):
    cfg = config(optimizer, **fields)
    check_optimizer_state('a.pth', saved, build_optimizer(cfg, module or model()), cfg)


@pytest.mark.parametrize(
    ('cfg', 'expected'),
    [
        (config(dict(type='AdamW', lr=-1.0)), 'optim_wrapper cannot be built: .*learning rate.*-1.0'),
        (config(dict(type='AdamW', lr=1e-3, momentum=0.9)), 'unexpected keyword argument .momentum'),
        (config(ADAMW, clip_grads=dict(max_norm=1)), 'unexpected keyword argument .clip_grads'),
        (config(dict(type='AdamW'), paramwise_cfg=dict(norm_decay_mult=0)), 'base_wd should not be None'),
        (
            config(
                ADAMW,
                constructor=NATLayerDecayOptimizerConstructor.__name__,
                paramwise_cfg=dict(decay_rate=2),
            ),
            r'paramwise_cfg\.decay_rate must be above 0 and at most 1, got 2; correct it',
        ),
    ],
)
def test_what_cannot_be_built(cfg, expected):
    with pytest.raises(UserError, match=expected):
        build_optimizer(cfg, model())


@pytest.mark.parametrize('name', [*BY_LAYER, f'mmseg.{BY_LAYER[0]}'])
def test_constructors_of_other_backbones(name):
    pytest.importorskip('mmseg')
    register_modules('mmseg')
    backbone = NAT(embed_dim=8, depths=[1], num_heads=[1], mlp_ratio=1.0, out_indices=[0])
    settings = dict(decay_rate=0.9, decay_type='layer_wise', num_layers=12)
    cfg = config(ADAMW, constructor=name, paramwise_cfg=settings)
    with pytest.raises(UserError, match="does not know the layers of NAT; use 'NATLayerDecayOptimizerCons"):
        build_optimizer(cfg, model(backbone))


def test_nothing_is_logged(capfd):
    keys = dict(custom_keys={'1': dict(decay_mult=0.0)})
    assert build_optimizer(config(ADAMW, paramwise_cfg=keys), model())
    assert capfd.readouterr() == ('', '')


def test_other_runners_build_their_own():
    assert build_optimizer(config(dict(type='DeepSpeed'), runner_type='FlexibleRunner'), model()) is None


@pytest.mark.parametrize('optimizer', [SGD, ADAMW])
@pytest.mark.parametrize('scheduled', [False, True])
def test_same_optimizer(optimizer, scheduled, capsys):
    check(trained(optimizer, scheduled=scheduled), optimizer)
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('before', 'now', 'lacks'),
    [(SGD, ADAMW, 'AdamW: it lacks betas'), (ADAMW, SGD, 'SGD: it lacks momentum')],
)
def test_another_optimizer(before, now, lacks):
    with pytest.raises(UserError, match=f'checkpoint a.pth is not of the optimizer of the config, {lacks}'):
        check(trained(before), now)


def test_other_groups():
    keys = dict(custom_keys={'1': dict(decay_mult=0.0)})
    with pytest.raises(
        UserError, match=r'is of 4 parameters in 1 group, .* config has 4 parameters in 4 groups; resume'
    ):
        check(trained(SGD), SGD, paramwise_cfg=keys)
    with pytest.raises(UserError, match='is of 4 parameters in 4 groups'):
        check(trained(SGD, paramwise_cfg=keys), SGD)


def test_frozen_parameters():
    frozen = model()
    frozen[0].requires_grad_(False)
    keys = dict(custom_keys={'1': dict(decay_mult=0.0)})
    with pytest.raises(UserError, match=r'is of 4 parameters in 4 groups, .* config has 2 parameters'):
        check(trained(SGD, paramwise_cfg=keys), SGD, frozen, paramwise_cfg=keys)


@pytest.mark.parametrize(
    ('now', 'fields', 'expected'),
    [
        (SGD | dict(lr=0.2), {}, 'lr = 0.1, not 0.2; to change them, start from the weights'),
        (SGD | dict(weight_decay=0.0), {}, 'weight_decay = 0.0001, not 0.0'),
        (SGD | dict(momentum=0.5), {}, 'momentum = 0.9, not 0.5'),
        (SGD | dict(lr=0.2), dict(auto_scale_lr=dict(enable=True)), None),
        (SGD, {}, None),
    ],
)
@pytest.mark.parametrize('scheduled', [False, True])
def test_changed_settings_are_a_warning(now, fields, expected, scheduled, capsys):
    check(trained(SGD, scheduled=scheduled), now, **fields)
    err = capsys.readouterr().err
    if expected is None:
        assert err == ''
    else:
        assert err.startswith('warning: --resume keeps the settings') and expected in err


def test_settings_that_older_versions_of_torch_did_not_save():
    saved = trained(ADAMW)
    for group in saved['param_groups']:
        for name in ('fused', 'capturable', 'maximize'):
            group.pop(name)
    check(saved, ADAMW)


def test_several_optimizers():
    def wrappers():
        parts = {name: OptimWrapper(torch.optim.SGD(model().parameters(), 0.1)) for name in 'ab'}
        return OptimWrapperDict(**parts)

    saved = wrappers().state_dict()
    check_optimizer_state('a.pth', saved, wrappers(), config(SGD))
    saved['b']['param_groups'][0]['params'].pop()
    with pytest.raises(UserError, match='is of 3 parameters in 1 group'):
        check_optimizer_state('a.pth', saved, wrappers(), config(SGD))
