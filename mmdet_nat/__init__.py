"""Registers in mmdet the backbones NAT, DiNAT and DiNAT_s, and what their panoptic configs need.

All that a config needs: ``custom_imports = dict(imports=['mmdet_nat'])``. Swaps the backbones into mmdet's
configs, too.
"""

from mmdet.registry import MODELS

from mmnat.models import BACKBONES, NAT, DiNAT, DiNAT_s
from mmnat.optimizers import NATLayerDecayOptimizerConstructor

from .ade20k_panoptic import BoxlessADE20KPanopticDataset
from .cityscapes_panoptic import CityscapesPanopticDataset, CityscapesPanopticMetric
from .swap import swap_backbone, swapped

for _backbone in BACKBONES.values():
    MODELS.register_module(module=_backbone)

__all__ = [
    'NAT',
    'BoxlessADE20KPanopticDataset',
    'CityscapesPanopticDataset',
    'CityscapesPanopticMetric',
    'DiNAT',
    'DiNAT_s',
    'NATLayerDecayOptimizerConstructor',
    'swap_backbone',
    'swapped',
]
