"""The backbone DiNAT_s."""

from collections.abc import Sequence
from typing import Any

from .backbone import NeighborhoodBackbone
from .layers import PatchMerging, PatchStem


class DiNAT_s(NeighborhoodBackbone):
    """Swin Transformer with dilated neighborhood attention (arXiv 2209.15001, section 4).

    The keys of the state dict are those of the published weights.

    Args:
        dilations: one list per level with one entry per block. There is no default: the published models
            alternate local and dilated attention, with dilations that depend on task and input size.
        arch: 'tiny', 'small', 'base' or 'large'; sets ``embed_dim``, ``depths``, ``num_heads`` and
            ``mlp_ratio``, each of which may also be given explicitly. Default: None.
        kwargs: the other arguments of :class:`mmnat.models.NAT`.

    Raises:
        ValueError: If the variant is unknown or arguments do not fit together.
    """

    arch_zoo = {
        'tiny': dict(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), mlp_ratio=4.0),
        'small': dict(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), mlp_ratio=4.0),
        'base': dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), mlp_ratio=4.0),
        'large': dict(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), mlp_ratio=4.0),
    }
    levels_name = 'layers'
    stem = PatchStem
    downsample = PatchMerging

    def __init__(self, dilations: Sequence[Sequence[int]], arch: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault('mlp_ratio', None if arch else 4.0)
        super().__init__(arch, dilations=dilations, **kwargs)
