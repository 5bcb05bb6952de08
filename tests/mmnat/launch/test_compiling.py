"""``compile`` of a config: what torch.compile takes, and a compiled training."""

from types import SimpleNamespace

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from tiny_training import draw_data, write_configs
from torch import nn

from mmnat.checkpoints.reading import read_checkpoint
from mmnat.commands import train
from mmnat.errors import UserError
from mmnat.launch.compiling import OptimizerUncompiled, is_compiled


@pytest.mark.parametrize(
    ('fields', 'expected'),
    [
        (dict(), False),
        (dict(compile=None), False),
        (dict(compile=False), False),
        (dict(compile=True), True),
        (dict(compile=dict()), True),
        (dict(compile=dict(backend='aot_eager')), True),
    ],
)
def test_is_compiled(fields, expected):
    assert is_compiled(Config(fields)) is expected


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ('inductor', "compile = 'inductor' is neither a bool nor a dict; write compile = True"),
        (dict(backend='nope'), 'Invalid backend'),
        (dict(mode='fast'), 'Unrecognized mode=fast'),
        (dict(fancy=1), "unexpected keyword argument 'fancy'"),
    ],
)
def test_wrong_options(options, expected):
    with pytest.raises(UserError, match=expected):
        is_compiled(Config(dict(compile=options)))


class Tiny(BaseModel):
    """A model with a loss."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x, mode):
        return dict(loss=self.layer(x).sum())


def test_optimizer_stays_out(monkeypatch):
    model = Tiny()
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1.0))
    runner = SimpleNamespace(optim_wrapper=wrapper)
    OptimizerUncompiled().before_train(runner)
    before = model.layer.weight.clone()
    programs = []

    def backend(graph, inputs):
        programs.append(graph)
        return graph

    step = torch.compile(model.train_step, backend=backend)
    step(dict(x=torch.rand(3, 2)), wrapper)
    assert programs and not torch.equal(model.layer.weight, before)
    assert any('linear' in str(graph.code) for graph in programs)
    assert not any('sqrt' in str(graph.code) for graph in programs)  # of AdamW


@pytest.mark.long
def test_training(tmp_path, monkeypatch):
    compiling = []
    step = OptimWrapper.update_params

    def update_params(self, *args, **kwargs):
        compiling.append(torch.compiler.is_compiling())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(OptimWrapper, 'update_params', update_params)
    draw_data(tmp_path / 'data')
    write_configs(tmp_path, tmp_path / 'data')
    config = tmp_path / 'segmentor.py'
    adamw = "optimizer=dict(type='AdamW', lr=1e-4)"  # whose groups torch cannot trace
    text = config.read_text().replace("optimizer=dict(type='SGD', lr=1e-4)", adamw)
    config.write_text(text + "compile = dict(backend='eager')\n")
    train.main([str(config), '--work-dir', str(tmp_path / 'work')])
    weights = read_checkpoint(tmp_path / 'work/iter_2.pth')['state_dict']
    assert 'backbone.patch_embed.proj.0.weight' in weights and compiling == [False, False]
