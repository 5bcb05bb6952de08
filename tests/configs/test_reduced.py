"""The reduced configs of the other tests: whatever the heads are, they build and are small."""

from pathlib import Path

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from reduced import CHANNELS, reduce

from mmnat.config import read_config

NAT_CONFIGS = Path(__file__).parents[2] / 'configs/nat'
MASK_RCNN = 'mask-rcnn_nat-mini_fpn_amp-ms-crop-3x_coco'
UPERNET = 'nat-mini_upernet_8xb2-amp-160k_ade20k-512x512'
# Three box heads in a list, and a backbone that names its levels otherwise.
CASCADE = """
_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/cityscapes_instance.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmdet_nat'])
model = dict(
    backbone=dict(
        _delete_=True, type='DiNAT_s', arch='tiny',
        dilations=[[1, 16], [1, 8], [1, 2, 1, 3, 1, 4], [1, 2]],
        init_cfg=dict(type='Pretrained', checkpoint='absent.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]))
"""


@pytest.fixture(params=[MASK_RCNN, UPERNET, 'cascade'])
def config(request, tmp_path):
    if request.param != 'cascade':
        return read_config(str(NAT_CONFIGS / f'{request.param}.py'))
    (tmp_path / 'cascade.py').write_text(CASCADE)
    return read_config(str(tmp_path / 'cascade.py'))


def test_reduced_configs_build_and_are_small(config):
    whole = config.to_dict()
    reduced = reduce(config)
    assert config.to_dict() == whole
    assert reduced.train_dataloader.batch_size == config.train_dataloader.batch_size
    model = revert_sync_batchnorm(MODELS.build(reduced.model)).eval()
    model.init_weights()
    assert sum(p.numel() for p in model.parameters()) < 30e6
    maps = model.backbone(torch.rand(1, 3, 64, 96))
    assert [x.shape[1] for x in maps] == CHANNELS
    if config.default_scope == 'mmdet':
        assert [head.fc_cls.in_features for head in box_heads(model)] == [64] * len(box_heads(model))
        assert len(model.extract_feat(torch.rand(1, 3, 64, 96))) == 5
    else:
        assert model.decode_head(maps).shape == (1, 150, 16, 24)
        assert model.auxiliary_head(maps).shape == (1, 150, 4, 6)


def box_heads(model):
    heads = model.roi_head.bbox_head
    return list(heads) if isinstance(heads, torch.nn.ModuleList) else [heads]


def test_sizes_become_a_fifth(config):
    (resize,) = [step for step in reduce(config).test_dataloader.dataset.pipeline if step.type == 'Resize']
    expected = {(1333, 800): (256, 160), (2048, 512): (416, 96), (2048, 1024): (416, 192)}
    (whole,) = [step for step in config.test_dataloader.dataset.pipeline if step.type == 'Resize']
    assert resize.scale == expected[whole.scale]
