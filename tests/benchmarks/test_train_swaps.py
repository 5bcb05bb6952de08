"""Pairs of models trained with a ResNet and with ours in its place: their configs, and a short training."""

import csv
import re
from dataclasses import replace

import pytest

from benchmarks.swaps import train
from benchmarks.swaps.pairs import PAIRS
from benchmarks.swaps.small_data import small_config
from mmnat.config import read_config
from mmnat.data.scenes import make_demo_data
from mmnat.preflight.models import build_model

SEMANTIC_FPN = next(pair for pair in PAIRS if pair.name == 'semantic-fpn_demo')
# What a swap changes; all else has to be equal for the comparison to be fair.
CHANGED = re.compile(
    r'model\.backbone\..*'
    r'|model\.(neck|decode_head|auxiliary_head)\.(in_channels|in_index|c1_in_channels|dilations)'
    r'|optim_wrapper\.paramwise_cfg\.custom_keys\..*|custom_imports\..*'
)


def leaves(value, where=''):
    if not isinstance(value, dict):
        return {where: list(value) if isinstance(value, tuple) else value}
    inside = [leaves(item, f'{where}.{key}' if where else key) for key, item in value.items()]
    return {key: item for part in inside for key, item in part.items()}


def rows(path):
    return list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith('#')))


@pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: pair.name)
@pytest.mark.usefixtures('capsys')
def test_pairs_differ_in_what_the_swap_changes(pair, tmp_path):
    before, after = (read_config(str(job.config)) for job in train.prepare(pair, tmp_path).values())
    old, new = leaves(before.to_dict()), leaves(after.to_dict())
    different = {key for key in old | new if old.get(key) != new.get(key)}
    assert {key for key in different if not CHANGED.fullmatch(key)} == set()
    assert (before.model.backbone.type, after.model.backbone.type) in [
        ('ResNet', 'NAT'),
        ('ResNetV1c', 'NAT'),
    ]


@pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: pair.name)
def test_baselines_train_all_they_have_from_nothing(pair):
    model = build_model(small_config(pair))
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    assert 'Pretrained' not in str(model.backbone.init_cfg)
    model.train()
    norms = [module for module in model.backbone.modules() if 'BatchNorm' in type(module).__name__]
    assert norms and all(norm.training for norm in norms)


@pytest.mark.long
@pytest.mark.usefixtures('capsys')
def test_a_pair_is_trained_and_not_trained_again(tmp_path, monkeypatch):
    pair = replace(SEMANTIC_FPN, iterations=2, batch_size=2)
    monkeypatch.setattr(train, 'PAIRS', (pair,))
    monkeypatch.setattr(train, 'make_demo_data', lambda out, *_: make_demo_data(out, 4, 2, seed=1))
    monkeypatch.chdir(tmp_path)
    arguments = ['--only', pair.name, '--report', 'trained.csv', '--processes', '2']
    train.main(arguments)
    first = rows(tmp_path / 'trained.csv')
    assert [row['backbone'] for row in first] == ['resnet', 'nat_mini']
    assert all(0 <= float(row['mIoU']) <= 100 and row['iterations'] == '2' for row in first)
    logs = sorted(tmp_path.rglob('scalars.json'))
    assert len(logs) == 2
    train.main(arguments)
    assert sorted(tmp_path.rglob('scalars.json')) == logs and rows(tmp_path / 'trained.csv') == first


def test_missing_data_are_named_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, 'make_demo_data', lambda *_: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        train.main(['--only', 'atss_fruits-nuts', '--report', 'trained.csv'])
    assert stop.value.code == 2 and 'data/fruits_nuts does not exist' in capsys.readouterr().err
    assert not (tmp_path / 'work_dirs').exists()
