"""Pairs of models trained with a ResNet and with ours in its place: their configs, and a short training."""

import csv
from dataclasses import replace

import pytest
import train_swaps
from launcher.config import read_config
from launcher.models import build_model
from make_demo_data import make_demo_data
from swap_training.pairs import PAIRS
from swap_training.small_data import small_config

MODELS = {pair.config: pair for pair in PAIRS}
SHARED = (
    'train_dataloader',
    'val_dataloader',
    'val_evaluator',
    'train_cfg',
    'param_scheduler',
    'randomness',
)


@pytest.mark.parametrize('pair', MODELS.values(), ids=lambda pair: pair.name)
def test_pairs_differ_in_what_the_swap_changes(pair, tmp_path, capsys):
    before, after = (read_config(str(job.config)) for job in train_swaps.prepare(pair, tmp_path).values())
    for field in SHARED:
        assert before[field] == after[field], field
    assert before.optim_wrapper.optimizer == after.optim_wrapper.optimizer
    assert (before.model.backbone.type, after.model.backbone.type) in [
        ('ResNet', 'NAT'),
        ('ResNetV1c', 'NAT'),
    ]
    capsys.readouterr()


@pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: pair.name)
def test_baselines_train_all_they_have_from_nothing(pair):
    cfg = small_config(pair)
    model = build_model(cfg)
    backbone = [parameter for parameter in model.backbone.parameters()]
    assert all(parameter.requires_grad for parameter in backbone)
    assert not model.backbone.init_cfg or 'Pretrained' not in str(model.backbone.init_cfg)
    model.train()
    norms = [m for m in model.backbone.modules() if 'BatchNorm' in type(m).__name__]
    assert norms and all(norm.training for norm in norms)


@pytest.mark.slow
def test_a_pair_is_trained_and_not_trained_again(tmp_path, monkeypatch, capsys):
    pair = replace(MODELS['mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'], iterations=2, batch_size=2)
    monkeypatch.setattr(train_swaps, 'PAIRS', (pair,))
    monkeypatch.setattr(train_swaps, 'ROOT', tmp_path)
    monkeypatch.setattr(train_swaps, 'make_demo_data', lambda out, *_: make_demo_data(out, 4, 2, seed=1))
    (tmp_path / 'configs').symlink_to(train_swaps.Path(train_swaps.__file__).parents[1] / 'configs')
    monkeypatch.chdir(tmp_path)
    arguments = ['--only', pair.name, '--out', 'trained.csv', '--processes', '2']
    train_swaps.main(arguments)
    first = (tmp_path / 'trained.csv').read_text()
    rows = list(csv.DictReader(line for line in first.splitlines() if not line.startswith('#')))
    assert [row['backbone'] for row in rows] == ['resnet', 'nat_mini']
    assert all(0 <= float(row['mIoU']) <= 100 and row['iterations'] == '2' for row in rows)
    logs = sorted((tmp_path / 'work_dirs').rglob('scalars.json'))
    train_swaps.main(arguments)
    assert sorted((tmp_path / 'work_dirs').rglob('scalars.json')) == logs
    assert rows == [
        row
        for row in csv.DictReader(
            line for line in (tmp_path / 'trained.csv').read_text().splitlines() if not line.startswith('#')
        )
    ]
    capsys.readouterr()


def test_missing_data_are_named_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_swaps, 'ROOT', tmp_path)
    monkeypatch.setattr(train_swaps, 'make_demo_data', lambda *_: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        train_swaps.main(['--only', 'atss_fruits-nuts'])
    assert stop.value.code == 2 and 'data/fruits_nuts does not exist' in capsys.readouterr().err
    assert not (tmp_path / 'work_dirs').exists()
