"""The hook on the page of the backbones compiles the blocks of detectors and segmentors."""

import re

import pytest
import torch
from hooks import ROOT

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmengine.runner import Runner
from tiny_training import draw_data, write_configs

from mmnat.checkpoints.reading import safe_globals
from mmnat.config import read_config
from mmnat.models.layers import Block


@pytest.mark.parametrize(
    ('name', 'package'),
    [('detector', 'mmdet_nat'), pytest.param('segmentor', 'mmseg_nat', marks=pytest.mark.long)],
)
def test_hook(name, package, tmp_path, monkeypatch):
    text = (ROOT / 'docs/backbones.md').read_text(encoding='utf-8')
    hook, change = re.findall(
        r'^```python title="(?:compile_blocks\.py|in the config)"\n(.*?)^```$', text, re.M | re.S
    )
    (tmp_path / 'compile_blocks.py').write_text(hook)
    monkeypatch.syspath_prepend(tmp_path)
    draw_data(tmp_path / 'data')
    write_configs(tmp_path, tmp_path / 'data')
    config = tmp_path / f'{name}.py'
    config.write_text(config.read_text() + change.replace('mmdet_nat', package))
    cfg = read_config(str(config))
    cfg.work_dir = str(tmp_path / 'work_dir')
    cfg.custom_hooks[0].backend = 'aot_eager'
    runner = Runner.from_cfg(cfg)
    names = runner.model.state_dict().keys()
    with torch._dynamo.config.patch(recompile_limit=8):  # what it was comes back
        runner.train()
    blocks = [module for module in runner.model.modules() if isinstance(module, Block)]
    assert len(blocks) == 4 and all(block._compiled_call_impl for block in blocks)
    with torch.serialization.safe_globals(safe_globals()):
        saved = torch.load(tmp_path / 'work_dir/iter_2.pth', weights_only=True)
    assert saved['state_dict'].keys() == names
