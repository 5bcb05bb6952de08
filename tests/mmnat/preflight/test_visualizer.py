"""The log backends: missing packages and backends that are there twice."""

import importlib.util

import pytest

pytest.importorskip('mmengine')

from mmengine.config import Config
from mmengine.registry import VISBACKENDS
from mmengine.visualization import TensorboardVisBackend

from mmnat.errors import UserError
from mmnat.preflight.visualizer import _PACKAGES, check_vis_backends


def check(*backends):
    check_vis_backends(Config(dict(visualizer=dict(type='Visualizer', vis_backends=list(backends)))))


@pytest.fixture
def installed(monkeypatch):
    """The packages that are installed."""
    names = set()
    find = importlib.util.find_spec
    known = {package for packages in _PACKAGES.values() for package in packages}
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name: (name in names or None) if name in known else find(name),
    )
    return names


class Subclass(TensorboardVisBackend):
    """A user's own."""


@pytest.mark.parametrize(
    ('kind', 'package'),
    [
        *((name, packages[-1]) for name, packages in _PACKAGES.items()),
        ('mmengine.WandbVisBackend', 'wandb'),
        (TensorboardVisBackend, 'tensorboard'),
        (Subclass, 'tensorboard'),
    ],
)
def test_missing_package(kind, package, installed):
    name = kind.split('.')[-1] if isinstance(kind, str) else kind.__name__
    installed.update({'pygit2'})
    with pytest.raises(UserError, match=f'{name} needs {package}, which is not installed; run pip install'):
        check(dict(type='LocalVisBackend'), dict(type=kind))
    installed.add(package)
    check(dict(type='LocalVisBackend'), dict(type=kind))


def test_every_backend_of_mmengine_is_known():
    ours = {
        name for name, kind in VISBACKENDS.module_dict.items() if kind.__module__.startswith('mmengine.')
    }
    assert ours == {*_PACKAGES, 'LocalVisBackend'}


def test_twice():
    local = dict(type='LocalVisBackend')
    with pytest.raises(UserError, match='vis_backends has LocalVisBackend more than once; keep one'):
        check(local, dict(type='mmengine.LocalVisBackend'))
    with pytest.raises(UserError, match='has a more than once'):
        check(dict(name='a', **local), dict(name='a', **local))
    check(local, dict(name='other', **local))


@pytest.mark.parametrize(
    'cfg',
    [
        dict(),
        dict(visualizer=None),
        dict(visualizer=dict(vis_backends=None)),
        dict(visualizer=dict(vis_backends=dict(type='LocalVisBackend'))),
    ],
)
def test_other_ways_to_write_it(cfg):
    check_vis_backends(Config(cfg))
