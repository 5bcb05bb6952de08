"""Neighborhood attention as modules, with the projections around the operator."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .arguments import per_axis
from .functional import packed_neighborhood_attention


class _NeighborhoodAttention(nn.Module):
    """Base class of the modules; ``rank`` is the number of axes."""

    rank: int

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        rel_pos_bias: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim < 1 or dim % num_heads:
            raise ValueError(f'dim must be a positive multiple of num_heads, got {dim} and {num_heads}')
        if not 0 <= attn_drop <= 1:
            raise ValueError(f'attn_drop must be a probability, 0 to 1, got {attn_drop}')
        self.num_heads = num_heads
        self.kernel_size = per_axis('kernel_size', kernel_size, self.rank)
        self.dilation = per_axis('dilation', dilation, self.rank)
        self.scale = (dim // num_heads) ** -0.5 if qk_scale is None else qk_scale
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        if rel_pos_bias:
            shape = (num_heads, *(2 * k - 1 for k in self.kernel_size))
            self.rpb = nn.Parameter(nn.init.trunc_normal_(self.qkv.weight.new_empty(shape), std=0.02))
        else:
            self.register_parameter('rpb', None)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; ``(B, *spatial, dim)`` to the same shape."""
        if x.dim() != self.rank + 2 or x.shape[-1] != self.qkv.in_features:
            raise ValueError(
                f'{type(self).__name__} needs a {self.rank + 2}-dimensional input (B, *spatial, dim)'
                f' with dim {self.qkv.in_features}, got shape {tuple(x.shape)}; channels come last'
            )
        spatial = x.shape[1:-1]
        missing = [
            max(k * d - length, 0)
            for length, k, d in zip(spatial, self.kernel_size, self.dilation, strict=True)
        ]
        if any(missing):
            # F.pad counts from the last dimension, which is the channels.
            x = F.pad(x, (0, 0, *(end for m in reversed(missing) for end in (0, m))))
        # The operator takes query, key and value as slices of this one projection.
        qkv = torch.unflatten(self.qkv(x), -1, (3, self.num_heads, -1))
        dropout = self.attn_drop if self.training else 0.0
        x = packed_neighborhood_attention(
            qkv, self.kernel_size, self.dilation, self.scale, self.rpb, dropout
        ).flatten(-2)
        if any(missing):
            for axis, length in enumerate(spatial):
                x = x.narrow(1 + axis, 0, length)
        return self.proj_drop(self.proj(x))

    def extra_repr(self) -> str:
        """The settings that are not visible in the sub-modules."""
        return (
            f'num_heads={self.num_heads}, kernel_size={self.kernel_size}, dilation={self.dilation},'
            f' rel_pos_bias={self.rpb is not None}'
        )


class NeighborhoodAttention1D(_NeighborhoodAttention):
    """Multi-head neighborhood attention over sequences ``(B, L, dim)``.

    Arguments as for :class:`NeighborhoodAttention2D`; ``rpb`` is ``(num_heads, 2 * kernel_size - 1)``.
    """

    rank = 1


class NeighborhoodAttention2D(_NeighborhoodAttention):
    """Multi-head neighborhood attention over feature maps ``(B, H, W, dim)``.

    Inputs smaller than ``kernel_size * dilation`` are padded before the projections with zeros at the
    end of each axis, and the output is cropped, as in the published NAT and DiNAT models; the padded
    pixels take part in the attention. Parameters: ``qkv``, ``rpb``
    ``(num_heads, 2 * k_h - 1, 2 * k_w - 1)``, ``proj``.

    Args:
        dim: channels of input and output.
        num_heads: attention heads; divides ``dim``.
        kernel_size: keys in a window on each axis, int or one per axis.
        dilation: distance of neighboring keys, int or one per axis. Default: 1.
        rel_pos_bias: learn a relative position bias ``rpb``. Default: True.
        qkv_bias: give the query-key-value projection a bias. Default: True.
        qk_scale: factor of the dot products. Default: None, ``head_dim ** -0.5``.
        attn_drop: probability of dropping an attention weight in training; above 0 the slow PyTorch
            reference computes. Default: 0.
        proj_drop: dropout probability of the output. Default: 0.

    Raises:
        ValueError: If ``dim`` is not a multiple of ``num_heads``, kernel size or dilation are not positive,
            ``attn_drop`` is not a probability, or an input has a wrong number of dimensions or channels.
    """

    rank = 2


class NeighborhoodAttention3D(_NeighborhoodAttention):
    """Multi-head neighborhood attention over videos or volumes ``(B, D, H, W, dim)``.

    Arguments as for :class:`NeighborhoodAttention2D`; ``rpb`` is ``(num_heads, 2 * k_d - 1, 2 * k_h -
    1, 2 * k_w - 1)``. Compiled only if an axis has kernel_size 1, see :func:`natten_ops.na3d`.
    """

    rank = 3
