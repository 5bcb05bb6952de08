"""The backbones NAT and DiNAT."""

from collections.abc import Sequence
from typing import Any

from .backbone import NeighborhoodBackbone
from .layers import ConvDownsample, ConvStem


class NAT(NeighborhoodBackbone):
    """Neighborhood Attention Transformer (Hassani et al., CVPR 2023, arXiv 2204.07143).

    The keys of the state dict are those of the published weights. Images may have any size: if a feature
    map is smaller than ``kernel_size * dilation``, attention pads it as the published models do.

    Args:
        arch: named variant, 'mini', 'tiny', 'small' or 'base'; sets the next four arguments. Explicit
            values override it. Default: None.
        embed_dim: channels of the first level; each further level has twice the channels.
        depths: blocks of every level.
        num_heads: attention heads of every level.
        mlp_ratio: hidden channels of the MLPs over their channels.
        kernel_size: keys in an attention window on each axis. Default: 7.
        in_channels: channels of the images. Default: 3.
        out_indices: levels to return, each normalized by its ``norm{i}``. Default: (0, 1, 2, 3).
        qkv_bias: give the query-key-value projections a bias. Default: True.
        qk_scale: factor of the dot products. Default: None, ``head_dim ** -0.5``.
        drop_rate: dropout probability of stem, projections and MLPs. Default: 0.
        attn_drop_rate: probability of dropping an attention weight; above 0 a slow reference computes
            attention. Default: 0.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0. Default: 0.2.
        layer_scale: initial value of the learned factors of the residual branches; None for no factors
            (the published Small and Base have 1e-5). Default: None.
        frozen_stages: -1 trains everything, 0 freezes the stem, ``n`` the stem and the first ``n``
            levels. Default: -1.
        with_cp: recompute the blocks' activations in the backward, which saves memory. Default: False.
        init_cfg: mmengine's initialization; ``dict(type='Pretrained', checkpoint=...)`` loads published
            classification, detection and segmentation weights. Default: None, truncated normal.

    Raises:
        ValueError: If the variant is unknown or arguments do not fit together.
        TypeError: If an argument is unknown. The message has the replacement for those of other
            implementations.
    """

    arch_zoo = {
        'mini': dict(embed_dim=64, depths=(3, 4, 6, 5), num_heads=(2, 4, 8, 16), mlp_ratio=3.0),
        'tiny': dict(embed_dim=64, depths=(3, 4, 18, 5), num_heads=(2, 4, 8, 16), mlp_ratio=3.0),
        'small': dict(embed_dim=96, depths=(3, 4, 18, 5), num_heads=(3, 6, 12, 24), mlp_ratio=2.0),
        'base': dict(embed_dim=128, depths=(3, 4, 18, 5), num_heads=(4, 8, 16, 32), mlp_ratio=2.0),
    }
    levels_name = 'levels'
    stem = ConvStem
    downsample = ConvDownsample


class DiNAT(NAT):
    """Dilated Neighborhood Attention Transformer (Hassani and Shi, arXiv 2209.15001).

    Args:
        dilations: one list per level with one entry per block. There is no default: the published models
            alternate local and dilated attention, with dilations that depend on task and input size.
        arch: as for :class:`NAT`, and 'large'.
        kwargs: the other arguments of :class:`NAT`.

    Raises:
        ValueError: If the variant is unknown or arguments do not fit together.
    """

    arch_zoo = NAT.arch_zoo | {
        'large': dict(embed_dim=192, depths=(3, 4, 18, 5), num_heads=(6, 12, 24, 48), mlp_ratio=2.0),
    }

    def __init__(self, dilations: Sequence[Sequence[int]], arch: str | None = None, **kwargs: Any) -> None:
        super().__init__(arch, dilations=dilations, **kwargs)
