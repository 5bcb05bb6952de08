"""Registers NAT, DiNAT and DiNAT_s as backbones of mmseg, and swaps them into its configs.

All that a config needs: ``custom_imports = dict(imports=['mmseg_nat'])``.
"""

from mmseg.registry import MODELS

from mmnat.models import BACKBONES, NAT, DiNAT, DiNAT_s
from mmnat.optimizers import NATLayerDecayOptimizerConstructor

from .swap import swap_backbone, swapped

for _backbone in BACKBONES.values():
    MODELS.register_module(module=_backbone)

__all__ = [
    'NAT',
    'DiNAT',
    'DiNAT_s',
    'NATLayerDecayOptimizerConstructor',
    'swap_backbone',
    'swapped',
]
