"""The schedules before a run: can they be built, and are those of a checkpoint the same?"""

import re

import pytest
import torch

pytest.importorskip('mmengine')

from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmnat.errors import UserError, warn
from mmnat.preflight.schedules import check_param_scheduler, check_schedules


@pytest.fixture(autouse=True)
def _fresh():
    warn.cache_clear()


def schedules(*parts, **train_cfg):
    return Config(dict(param_scheduler=list(parts), train_cfg=train_cfg or dict(max_epochs=12)))


def wrapped():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    return OptimWrapper(optimizer)


def state_of(cfg, length=100):
    """What a checkpoint has of the schedules of a config."""
    wrapper, cfg = wrapped(), cfg.copy()
    parts = [
        dict(part, end=part.get('end', cfg.train_cfg.get('max_epochs', 1))) for part in cfg.param_scheduler
    ]
    built = [
        PARAM_SCHEDULERS.build(part, default_args=dict(optimizer=wrapper, epoch_length=length))
        for part in parts
    ]
    states = [part.state_dict() for part in built]
    return dict(param_schedulers=states, exact_resume=dict(batches_per_epoch=length))


STEPS = dict(type='MultiStepLR', milestones=[8, 11])
COSINE = dict(type='CosineAnnealingLR', convert_to_iter_based=True, T_max=12, eta_min=0)


@pytest.mark.parametrize('parts', [[], [STEPS], [COSINE], [STEPS, COSINE]])
def test_resumed_schedules_are_the_same(parts, capsys):
    cfg = schedules(*parts)
    check_schedules('a.pth', state_of(cfg), wrapped(), cfg)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    'new, said',
    [
        (dict(STEPS, milestones=[16, 22]), r'param_scheduler[0].milestones = [8, 11], not [16, 22]'),
        (dict(STEPS, gamma=0.5), 'param_scheduler[0].gamma = 0.1, not 0.5'),
        (dict(STEPS, end=24), 'param_scheduler[0].end = 12, not 24'),
    ],
)
def test_resumed_schedules_have_other_settings(new, said, capsys):
    check_schedules('a.pth', state_of(schedules(STEPS)), wrapped(), schedules(new))
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    'new, said',
    [
        ([], 'has 1 schedules, and the param_scheduler of the config has 0'),
        ([STEPS, COSINE], 'has 1 schedules, and the param_scheduler of the config has 2'),
        ([COSINE], 'is not of param_scheduler[0] of the config, CosineAnnealingLR: it lacks T_max'),
    ],
)
def test_resumed_schedules_are_others(new, said):
    with pytest.raises(UserError, match=re.escape(said)):
        check_schedules('a.pth', state_of(schedules(STEPS)), wrapped(), schedules(*new))


def test_schedules_that_cannot_be_built():
    wrapper = wrapped()
    check_param_scheduler(schedules(STEPS, COSINE), wrapper)
    assert 'initial_lr' not in wrapper.optimizer.param_groups[0]  # as it was
    with pytest.raises(UserError, match=r"param_scheduler\[1\] cannot be built: .*'milestone'"):
        check_param_scheduler(schedules(STEPS, dict(type='MultiStepLR', milestone=[1])), wrapper)


def test_fault_without_a_text():
    def silent(**_):
        raise AssertionError

    with pytest.raises(UserError, match=r'param_scheduler\[0\] cannot be built: AssertionError in '):
        check_param_scheduler(schedules(dict(type=silent)), wrapped())
