"""Neighborhood attention as functions: ``na1d`` and ``na2d``."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import operator
from .arguments import HALF_DTYPES, check_rpb, check_tensors, check_window, per_axis
from .reference import neighborhood_attention_reference


def _neighborhood_attention(
    rank: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int],
    rpb: Tensor | None,
    scale: float | None,
    dropout: float = 0.0,
) -> Tensor:
    """``na1d`` and ``na2d``: check, then the compiled operator or the reference."""
    check_tensors(query, key, value, rank)
    kernel_size = per_axis('kernel_size', kernel_size, rank)
    dilation = per_axis('dilation', dilation, rank)
    check_window(query.shape[1:-2], kernel_size, dilation)
    if rpb is not None:
        check_rpb(rpb, query, kernel_size)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)

    dtype = query.dtype
    if dtype in HALF_DTYPES:
        query, key, value = query.float(), key.float(), value.float()
        rpb = None if rpb is None else rpb.float()
    if dropout > 0 or not operator.covers(query):
        # Autocast would take the matrix products back to half precision.
        with torch.autocast(query.device.type, enabled=False):
            output, _ = neighborhood_attention_reference(
                query, key, value, kernel_size, dilation, rpb, scale, dropout
            )
    else:
        rpb = None if rpb is None else rpb.contiguous()
        output, _ = torch.ops.natten_ops.na_forward(query, key, value, rpb, kernel_size, dilation, scale)
    return output.to(dtype)


def na1d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    *,
    dilation: int | Sequence[int] = 1,
    rpb: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """One-dimensional neighborhood attention; see :func:`na2d`.

    Args:
        query: ``(B, L, heads, head_dim)``; float32, float64, float16 or bfloat16, any strides.
        key: like query.
        value: like query.
        kernel_size: keys in a window.
        dilation: distance of neighbouring keys in a window; ``kernel_size * dilation <= L``.
        rpb: relative position bias ``(heads, 2 * kernel_size - 1)``; None for no bias.
        scale: factor of the dot products; None for ``head_dim ** -0.5``.

    Returns:
        Contiguous ``(B, L, heads, head_dim)`` in the dtype of query.

    Raises:
        TypeError: where an argument's type or dtype is wrong.
        ValueError: where shapes, devices, kernel size and dilation do not fit together.
    """
    return _neighborhood_attention(1, query, key, value, kernel_size, dilation, rpb, scale)


def na2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    *,
    dilation: int | Sequence[int] = 1,
    rpb: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Two-dimensional neighborhood attention (arXiv 2204.07143, dilated: arXiv 2209.15001).

    Every pixel attends to the ``kernel_size`` window of keys around it, on each axis ``dilation``
    apart. At the borders the window is shifted inwards, so that every pixel has the same number of
    keys. With ``kernel_size`` equal to the feature map and dilation 1 this is self attention.
    Twice differentiable in query, key, value and rpb. Half precision is computed in float32; on
    devices without a kernel, and in the second derivatives, the PyTorch reference computes.

    Args:
        query: ``(B, H, W, heads, head_dim)``; float32, float64, float16 or bfloat16, any strides.
        key: like query.
        value: like query.
        kernel_size: keys in a window on each axis, one int or ``(k_h, k_w)``.
        dilation: distance of neighbouring keys in a window, one int or ``(d_h, d_w)``;
            ``k_h * d_h <= H`` and ``k_w * d_w <= W``.
        rpb: relative position bias ``(heads, 2 * k_h - 1, 2 * k_w - 1)``, added to the scaled dot
            products; None for no bias.
        scale: factor of the dot products; None for ``head_dim ** -0.5``.

    Returns:
        Contiguous ``(B, H, W, heads, head_dim)`` in the dtype of query. The result does not depend on
        the number of threads.

    Raises:
        TypeError: where an argument's type or dtype is wrong.
        ValueError: where shapes, devices, kernel size and dilation do not fit together.
    """
    return _neighborhood_attention(2, query, key, value, kernel_size, dilation, rpb, scale)
