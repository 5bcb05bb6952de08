"""The checks in the launchers of mmdet and mmseg: one line in a config."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip('mmdet')

from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from tiny_training import draw_data, write_configs

from mmnat.commands import train
from mmnat.config import read_config
from mmnat.config_files import framework_folder
from mmnat.errors import CheckpointError, UserError
from mmnat.preflight import runner as preflight_runner

LINE = "runner_type = 'mmnat.preflight.runner.CheckedRunner'\n"
MISTAKE = 'metainfo.classes: 2 of 2 classes (disc, square) are not in'


@pytest.fixture
def config(tmp_path):
    """A detector whose launcher checks."""
    draw_data(tmp_path / 'data')
    write_configs(tmp_path, tmp_path / 'data')
    path = tmp_path / 'detector.py'
    path.write_text(path.read_text() + LINE)
    return path


def spoil(folder):
    """Rename the classes in the annotation file."""
    path = folder / 'data/coco.json'
    path.write_text(path.read_text().replace('"disc"', '"ball"').replace('"square"', '"cube"'))


def train_by_mmdet(config):
    """Run mmdet's own script."""
    script = framework_folder('mmdet').parent / 'tools/train.py'
    return subprocess.run(
        [sys.executable, script, config], cwd=config.parent, capture_output=True, text=True
    )


@pytest.mark.alone
def test_mmdet_trains_with_the_line(config):
    run = train_by_mmdet(config)
    assert run.returncode == 0, run.stderr[-3000:]
    assert (config.parent / 'work_dirs/detector/iter_2.pth').is_file()


@pytest.mark.alone
def test_mmdet_explains_a_mistake_with_the_line(config):
    spoil(config.parent)
    run = train_by_mmdet(config)
    assert run.returncode != 0
    assert run.stderr.splitlines()[-1].startswith('mmnat.errors.UserError: ') and MISTAKE in run.stderr


@pytest.mark.alone
@pytest.mark.long
def test_mmdet_does_not_explain_a_mistake_without_the_line(config):
    spoil(config.parent)
    config.write_text(config.read_text().replace(LINE, ''))
    run = train_by_mmdet(config)
    assert run.returncode != 0 and MISTAKE not in run.stderr
    assert 'need at least one array to concatenate' in run.stderr


def runner_of(config, **options):
    cfg = read_config(str(config))
    cfg.merge_from_dict(dict(work_dir=str(config.parent / 'work'), **options))
    return RUNNERS.build(cfg)


def test_tests_are_checked_too(config):
    spoil(config.parent)
    with pytest.raises(UserError, match=r'metainfo\.classes'):
        runner_of(config).test()
    with pytest.raises(CheckpointError, match='does not exist'):
        runner_of(config, load_from='absent.pth').test()


def test_checks_leave_the_model_and_the_random_numbers_alone(config, monkeypatch):
    monkeypatch.setattr(Runner, 'train', lambda runner: torch.rand(3))
    runner = runner_of(config, load_from=str(config.parent / 'weights.pth'))
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    torch.save({name: value + 1 for name, value in before.items()}, config.parent / 'weights.pth')
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(runner.train(), wanted)
    assert all(torch.equal(value, before[name]) for name, value in runner.model.state_dict().items())


def test_mmnat_train_checks_once(config, monkeypatch):
    def checked_again(cfg, model):
        raise AssertionError('checked again')

    monkeypatch.setattr(preflight_runner, 'check_training', checked_again)
    train.main([str(config), '--work-dir', str(config.parent / 'work')])
    assert (config.parent / 'work/iter_2.pth').is_file()
    with pytest.raises(AssertionError, match='checked again'):
        runner_of(config).train()
