"""Neighborhood attention operators with trainable relative position bias, for torch.

Needs torch only. If mmengine is installed, the modules are also registered, so that a config can say
``dict(type='NeighborhoodAttention2D', ...)``.
"""

from .functional import na1d, na2d, na3d
from .modules import NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D
from .version import __version__

try:
    from mmengine.registry import MODELS
except ModuleNotFoundError:
    pass
else:
    for _module in (NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D):
        MODELS.register_module(module=_module)

__all__ = [
    'NeighborhoodAttention1D',
    'NeighborhoodAttention2D',
    'NeighborhoodAttention3D',
    '__version__',
    'na1d',
    'na2d',
    'na3d',
]
