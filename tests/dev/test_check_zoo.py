"""The tool that compares configs, metafiles and READMEs, and where the build puts them."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import check_zoo
import pytest
import yaml
from zoo_tables import replace_table

from mmnat.config import read_config
from mmnat.config_files import project_folder
from mmnat.errors import UserError
from mmnat.zoo import published_models

ROOT = project_folder()
MASK_RCNN = 'configs/nat/mask-rcnn_nat-mini_fpn_amp-ms-crop-3x_coco.py'


@pytest.mark.long
def test_configs_metafiles_and_readmes_agree(capsys):
    check_zoo.main([])
    assert '42 models and 16 backbones agree' in capsys.readouterr().out


def test_disagreement_is_found(monkeypatch):
    model = published_models()[MASK_RCNN]
    cfg = read_config(str(ROOT / MASK_RCNN))
    assert list(check_zoo.check_recipe(model, cfg)) == []
    cfg.auto_scale_lr.base_batch_size = 32
    cfg.model.backbone.arch = 'tiny'
    assert [p.split(', ')[0] for p in check_zoo.check_recipe(model, cfg)] == [
        f'{MASK_RCNN} has batch_size 32',
        f'{MASK_RCNN} has backbone NAT-Tiny',
    ]
    row = dict(model='m', params=40.4, macs=222.8, published_params=40.0, published_macs=225.0)
    assert list(check_zoo.check_complexity(row, 0.01, exact_params=True)) == []
    row.update(params=40.6, macs=222.7)
    assert len(list(check_zoo.check_complexity(row, 0.01, exact_params=True))) == 2

    other = dataclasses.replace(model, config='configs/nat/absent.py', name='other')
    monkeypatch.setattr(check_zoo, 'published_models', lambda: {other.config: other})
    problems = list(check_zoo.check_index())
    assert f'{MASK_RCNN} is in no metafile' in problems
    assert any('which does not exist' in p for p in problems) and any('another name' in p for p in problems)


def test_outdated_table_is_found():
    text = 'a\n<!-- models -->\nold\n<!-- end of models -->\nb'
    path = Path('README.md')
    assert replace_table(text, 'models', 'new', path) == text.replace('old', 'new')
    with pytest.raises(UserError, match='lacks the markers <!-- models -->'):
        replace_table('a', 'models', 'new', path)


def test_installed_where_mim_looks(tmp_path):
    command = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    mim = tmp_path / 'mmnat/.mim'
    metafiles = yaml.safe_load((mim / 'model-index.yml').read_text())['Import']
    entries = [entry for file in metafiles for entry in yaml.safe_load((mim / file).read_text())['Models']]
    assert {entry['Config'] for entry in entries} == published_models().keys()
    assert all((mim / entry['Config']).is_file() for entry in entries)
    assert (mim / 'configs/_base_/models/upernet_nat.py').is_file() and (mim / 'tools/train.py').is_file()
    assert not (mim / 'tools/dev').exists()
