"""A training that takes the model that was checked is the training that mmengine alone would run."""

import copy

import pytest
import torch

pytest.importorskip('mmdet')

from mmengine.hooks import Hook
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import Runner
from tiny_training import draw_data, write_configs

from mmnat.checkpoints.reading import read_checkpoint
from mmnat.commands import train
from mmnat.config import read_config
from mmnat.launch.runner import build_runner
from mmnat.launch.seeded_model import SeededModel
from mmnat.models import NAT


@HOOKS.register_module()
class StartRecorder(Hook):
    """Records the weights that a training starts from, and its losses."""

    weights: dict
    losses: list

    def before_train(self, runner):
        StartRecorder.weights = copy.deepcopy(runner.model.state_dict())
        StartRecorder.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        StartRecorder.losses.append(outputs['loss'].item())


@pytest.fixture
def config(tmp_path):
    """A detector whose backbone starts from a file, so that the checks draw random numbers."""
    draw_data(tmp_path / 'data')
    write_configs(tmp_path, tmp_path / 'data')
    settings = dict(embed_dim=32, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])
    backbone = NAT(**settings, mlp_ratio=2.0, kernel_size=3)
    torch.save(backbone.state_dict(), tmp_path / 'backbone.pth')
    path = tmp_path / 'detector.py'
    init_cfg = f"init_cfg=dict(type='Pretrained', checkpoint='{tmp_path}/backbone.pth')"
    path.write_text(
        path.read_text().replace('init_cfg=None', init_cfg)
        + "custom_hooks = [dict(type='StartRecorder')]\n"
    )
    return path


def recorded():
    return StartRecorder.weights, StartRecorder.losses


def train_by_mmengine(path, work_dir, seed):
    cfg = read_config(str(path))
    cfg.merge_from_dict(dict(work_dir=str(work_dir), launcher='none', randomness=dict(seed=seed)))
    Runner.from_cfg(cfg).train()
    return recorded()


@pytest.mark.parametrize('seed', [5, pytest.param(None, marks=pytest.mark.long)])
def test_same_training_as_by_mmengine(config, tmp_path, monkeypatch, seed):
    with monkeypatch.context() as patch:
        patch.setattr(Runner, 'build_model', None)  # the model is built once, and not by the runner
        options = [] if seed is None else ['--cfg-options', f'randomness.seed={seed}']
        train.main([str(config), '--work-dir', str(tmp_path / 'ours'), *options])
    weights, losses = recorded()
    seed = read_checkpoint(tmp_path / 'ours/iter_2.pth')['meta']['seed']
    wanted_weights, wanted_losses = train_by_mmengine(config, tmp_path / 'mmengine', seed)
    assert weights.keys() == wanted_weights.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, wanted_weights[name]), name
    assert losses == wanted_losses and len(losses) == 2


class OwnModels(Runner):
    """A runner with its own way to build models."""

    def build_model(self, model):
        return super().build_model(model)


@pytest.mark.parametrize(
    ('options', 'takes'),
    [
        (dict(), True),
        (dict(runner_type='OwnModels'), False),
        (dict(launcher='pytorch'), False),
        (dict(launcher='pytorch', randomness=dict(seed=1)), True),
        (dict(launcher='pytorch', randomness=dict(seed=1, diff_rank_seed=True)), False),
    ],
)
def test_when_the_runner_takes_the_model(config, tmp_path, monkeypatch, options, takes):
    RUNNERS.register_module(module=OwnModels, force=True)
    monkeypatch.setattr('mmnat.launch.runner.init_distribution', lambda cfg: None)
    monkeypatch.setattr(Runner, 'setup_env', setup_without_processes)
    monkeypatch.setattr(Runner, 'wrap_model', lambda self, cfg, model: model)
    cfg = read_config(str(config))
    cfg.merge_from_dict(dict(work_dir=str(tmp_path / 'work'), launcher='none') | options)
    built = SeededModel(cfg)
    assert (build_runner(cfg, built).model is built.model) == takes


def setup_without_processes(runner, env_cfg):
    runner._rank, runner._world_size, runner._timestamp = 0, 1, 'now'
