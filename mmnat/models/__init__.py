"""NAT, DiNAT and DiNAT_s: backbones of neighborhood attention for mmdet, mmseg and mmengine."""

from .backbone import NeighborhoodBackbone
from .dinat_s import DiNAT_s
from .nat import NAT, DiNAT

#: The backbones by the name that configs give them.
BACKBONES: dict[str, type[NeighborhoodBackbone]] = {cls.__name__: cls for cls in (NAT, DiNAT, DiNAT_s)}

__all__ = ['BACKBONES', 'NAT', 'DiNAT', 'DiNAT_s']
