"""The config on the page of the backbones trains detectors and segmentors."""

import re

import pytest
from hooks import ROOT

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from tiny_training import draw_data, write_configs

from mmnat.checkpoints.reading import read_checkpoint
from mmnat.commands import train

PAGE = (ROOT / 'docs/backbones.md').read_text(encoding='utf-8')
FORMER = "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-4))\n"


@pytest.mark.parametrize('name', ['detector', 'segmentor'])
def test_training(name, tmp_path):
    (new,) = re.findall(r'^```python title="learning rates by layer"\n(.*?)^```$', PAGE, re.M | re.S)
    draw_data(tmp_path / 'data')
    write_configs(tmp_path, tmp_path / 'data')
    config = tmp_path / f'{name}.py'
    text = config.read_text()
    assert FORMER in text
    config.write_text(text.replace(FORMER, new))
    for resume in ([], ['--resume']):
        iterations = f'train_cfg.max_iters={1 + len(resume)}'
        options = ['--work-dir', str(tmp_path / 'work'), '--cfg-options', iterations, *resume]
        train.main([str(config), *options])
    groups = read_checkpoint(tmp_path / 'work/iter_2.pth')['optimizer']['param_groups']
    rates = {group['initial_lr'] if 'initial_lr' in group else group['lr'] for group in groups}
    # Four blocks; the segmentor's stem, blocks and heads as well.
    assert sorted(rates) == pytest.approx([1e-4 * 0.9**step for step in (5, 4, 3, 2, 1, 0)])
    assert {group['weight_decay'] for group in groups} == {0.0, 0.05}
