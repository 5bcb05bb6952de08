"""The checks in the launchers of mmdet and mmseg: one line in a config."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip('mmdet')

from mmengine.runner import Runner
from tiny_training import draw_data, write_configs

from mmnat.commands import train
from mmnat.config import read_config
from mmnat.config_files import framework_folder
from mmnat.errors import CheckpointError, UserError
from mmnat.preflight import checks

LINE = "custom_imports = dict(imports=['mmdet_nat', 'mmnat.preflight.enforce'])\n"
WITHOUT_LINE = "custom_imports = dict(imports=['mmdet_nat'])\n"
MISTAKE = 'metainfo.classes: 2 of 2 classes (disc, square) are not in'


@pytest.fixture
def config(tmp_path):
    """A detector that is checked."""
    draw_data(tmp_path / 'data')
    write_configs(tmp_path, tmp_path / 'data')
    path = tmp_path / 'detector.py'
    text = path.read_text().replace(WITHOUT_LINE, LINE)
    # As mmdet's own configs of COCO have it.
    filtered = "filter_cfg=dict(filter_empty_gt=True), ann_file='coco.json'"
    path.write_text(text.replace("ann_file='coco.json'", filtered))
    return path


@pytest.fixture
def runner(config, monkeypatch):
    """Builds the detector's runner; mmengine's is as before when the test ends."""
    monkeypatch.delitem(sys.modules, 'mmnat.preflight.enforce', raising=False)
    for name in ('train', 'test'):
        monkeypatch.setattr(Runner, name, getattr(Runner, name))

    def build(**options):
        cfg = read_config(str(config))
        cfg.merge_from_dict(dict(work_dir=str(config.parent / 'work'), launcher='none') | options)
        return Runner.from_cfg(cfg)

    return build


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
    config.write_text(config.read_text().replace(LINE, WITHOUT_LINE))
    run = train_by_mmdet(config)
    assert run.returncode != 0 and MISTAKE not in run.stderr
    assert 'need at least one array to concatenate' in run.stderr


def test_tests_are_checked_too(config, runner):
    spoil(config.parent)
    with pytest.raises(UserError, match=r'metainfo\.classes'):
        runner().test()
    with pytest.raises(CheckpointError, match='does not exist'):
        runner(load_from='absent.pth').test()


def test_checks_leave_the_model_and_the_random_numbers_alone(config, runner, monkeypatch):
    monkeypatch.setattr(Runner, 'train', lambda runner: torch.rand(3))
    checked = runner(load_from=str(config.parent / 'weights.pth'))
    before = {name: value.clone() for name, value in checked.model.state_dict().items()}
    torch.save({name: value + 1 for name, value in before.items()}, config.parent / 'weights.pth')
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(checked.train(), wanted)
    assert all(torch.equal(value, before[name]) for name, value in checked.model.state_dict().items())


def test_mmnat_train_checks_once(config, runner, monkeypatch):
    calls = []
    check = checks.check_datasets
    monkeypatch.setattr(checks, 'check_datasets', lambda *args: calls.append(args) or check(*args))
    train.main([str(config), '--work-dir', str(config.parent / 'work')])
    assert (config.parent / 'work/iter_2.pth').is_file() and len(calls) == 1
    runner().train()
    assert len(calls) == 2
