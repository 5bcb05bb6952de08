"""NAT, DiNAT and DiNAT_s: backbones with neighborhood attention for mmdet, mmseg and mmengine."""

from .dinat_s import DiNAT_s
from .nat import NAT, DiNAT

__all__ = ['NAT', 'DiNAT', 'DiNAT_s']
