"""Neighborhood attention as functions: ``na1d``, ``na2d`` and ``na3d``."""

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from . import autocast, dispatch
from .arguments import (
    DTYPES,
    check_padding,
    check_rpb,
    check_tensors,
    check_types,
    check_window,
    flags_per_axis,
    per_axis,
    scale_or_default,
)
from .derivatives import forward, is_transformed, packed_forward, supports_active_autograd
from .precision import allows_tf32
from .reference import neighborhood_attention_reference
from .windows import valid_range

_Setting = TypeVar('_Setting', int, bool)


def _compiled(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    kernel_size: tuple[int, ...],
    dilation: tuple[int, ...],
    scale: float,
) -> Tensor:
    """The compiled operator."""
    rpb = None if rpb is None else rpb.contiguous()
    return forward(query, key, value, rpb, kernel_size, dilation, scale, allows_tf32(query))[0]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    is_causal: tuple[bool, ...],
    scale: float,
    padding: str,
    dropout: float,
) -> Tensor:
    """The compiled operator if it covers the settings, otherwise the reference."""
    is_covered = dispatch.covers(query, kernel_size, stride, dilation, is_causal, padding, dropout)
    if is_covered and supports_active_autograd():
        output = _compiled(query, key, value, rpb, kernel_size, dilation, scale)
        if padding == 'valid':
            axes = zip(query.shape[1:-2], kernel_size, dilation, is_causal, strict=True)
            for axis, settings in enumerate(axes):
                output = output.narrow(1 + axis, *valid_range(*settings))
        return output
    output, _ = neighborhood_attention_reference(
        query, key, value, kernel_size, dilation, rpb, scale, dropout,
        stride=stride, is_causal=is_causal, padding=padding,
    )  # fmt: skip
    return output


def _without(values: tuple[_Setting, ...], axis: int) -> tuple[_Setting, ...]:
    return values[:axis] + values[axis + 1 :]


def _neighborhood_attention(
    rank: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    is_causal: bool | Sequence[bool],
    scale: float | None,
    rpb: Tensor | None,
    padding: str,
    dropout: float = 0.0,
) -> Tensor:
    """``na1d``, ``na2d`` and ``na3d``: check, simplify, attend."""
    check_types(query, key, value, rpb, rank)
    query, key, value, rpb = autocast.cast(query, key, value, rpb)
    check_tensors(query, key, value, rank)
    kernel_size = per_axis('kernel_size', kernel_size, rank)
    stride = per_axis('stride', stride, rank)
    dilation = per_axis('dilation', dilation, rank)
    is_causal = flags_per_axis('is_causal', is_causal, rank)
    check_padding(padding)
    check_window(query.shape[1:-2], kernel_size, stride, dilation, padding)
    if rpb is not None:
        check_rpb(rpb, query, kernel_size)
    scale = scale_or_default(scale, query.shape[-1])

    if 1 in kernel_size:
        # A window of one key is the token itself, whatever the axis' other settings say.
        dilation = tuple(1 if k == 1 else d for k, d in zip(kernel_size, dilation, strict=True))
        is_causal = tuple(k > 1 and causal for k, causal in zip(kernel_size, is_causal, strict=True))
        if all(k == 1 for k in kernel_size):
            padding = 'shifted'

    folded = None
    if rank == 3 and 1 in kernel_size:
        # Nothing attends along this axis: it joins the batch, and the other two can be compiled.
        folded = kernel_size.index(1)
        sizes = query.shape[0], query.shape[1 + folded]
        query, key, value = (t.movedim(1 + folded, 1).flatten(0, 1) for t in (query, key, value))
        rpb = None if rpb is None else rpb.select(1 + folded, 0)
        kernel_size, stride = _without(kernel_size, folded), _without(stride, folded)
        dilation, is_causal = _without(dilation, folded), _without(is_causal, folded)
    output = _attend(
        query, key, value, rpb, kernel_size, stride, dilation, is_causal, scale, padding, dropout
    )  # fmt: skip
    if folded is not None:
        output = output.unflatten(0, sizes).movedim(1, 1 + folded)
    return output.contiguous()


def packed_neighborhood_attention(
    qkv: Tensor,
    kernel_size: tuple[int, ...],
    dilation: tuple[int, ...],
    scale: float,
    rpb: Tensor | None,
    dropout: float,
) -> Tensor:
    """Attention of query, key and value that are slices of one projection, for the modules.

    Gives the result of :func:`na1d` to :func:`na3d` on these slices. If the compiled operator computes it,
    the gradient is written into one tensor, instead of being put together from three.

    Args:
        qkv: ``(B, *spatial, 3, heads, head_dim)``.
        kernel_size: one per axis.
        dilation: one per axis.
        scale: factor of the dot products.
        rpb: relative position bias ``(heads, 2 * kernel_size - 1, ...)`` or None.
        dropout: probability of dropping an attention weight.

    Returns:
        ``(B, *spatial, heads, head_dim)``.
    """
    rank = len(kernel_size)
    once, no = (1,) * rank, (False,) * rank
    shape = qkv.shape
    # na1d to na3d say what is wrong with other tensors.
    is_right = len(shape) == rank + 4 and qkv.dtype in DTYPES and 0 not in shape[1:]
    # Device and head_dim, which this needs with padding shifted, are those of query.
    is_covered = dispatch.covers(qkv, kernel_size, once, dilation, no, 'shifted', dropout)
    if not (is_right and is_covered and supports_active_autograd()) or is_transformed():
        query, key, value = qkv.unbind(-3)
        return _neighborhood_attention(
            rank, query, key, value, kernel_size, 1, dilation, False, scale, rpb, 'shifted', dropout
        )  # fmt: skip
    qkv, _, _, rpb = autocast.cast(qkv, qkv, qkv, rpb)
    check_window(shape[1:-3], kernel_size, once, dilation, 'shifted')
    if rpb is not None:
        check_rpb(rpb, qkv, kernel_size)
        rpb = rpb.contiguous()
    return packed_forward(qkv, rpb, kernel_size, dilation, scale, allows_tf32(qkv))[0]


def na1d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    padding: str = 'shifted',
) -> Tensor:
    """One-dimensional neighborhood attention; all that :func:`na2d` says holds, with one axis.

    Args:
        query: ``(B, L, heads, head_dim)``; float32, float64, float16 or bfloat16, any strides.
        key: like query.
        value: like query.
        kernel_size: keys in a window.
        stride: queries that share a window, at most ``kernel_size``.
        dilation: distance of neighboring keys in a window.
        is_causal: whether keys after the query are absent.
        scale: factor of the dot products; None for ``head_dim ** -0.5``.
        rpb: relative position bias ``(heads, 2 * kernel_size - 1)``; None for no bias.
        padding: ``'shifted'``, ``'zeros'`` or ``'valid'``.

    Returns:
        Contiguous ``(B, L, heads, head_dim)`` in the dtype of query; with padding valid,
        ``dilation * (kernel_size - 1)`` tokens fewer.

    Raises:
        TypeError: If an argument's type or dtype is wrong.
        ValueError: If shapes, devices and window do not fit together.
    """
    return _neighborhood_attention(
        1, query, key, value, kernel_size, stride, dilation, is_causal, scale, rpb, padding
    )


def na2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    padding: str = 'shifted',
) -> Tensor:
    """Two-dimensional neighborhood attention (arXiv 2204.07143; dilated: 2209.15001; strided: 2504.16922).

    Every pixel attends to the window of ``kernel_size`` keys around it, on each axis ``dilation``
    apart. ``padding`` says what happens at the borders: ``'shifted'`` shifts the window inwards, so that
    every pixel has the same number of keys; ``'zeros'`` fills it with zero keys that have zero values and
    take part in the softmax (stand-alone self-attention); ``'valid'`` gives an output only for pixels whose
    whole window is inside the feature map. With ``kernel_size`` equal to the feature map this is self
    attention. natten_ops/windows.py has the exact definition, also of strides and causal axes.

    :func:`natten_ops.dispatch.covers` lists what the compiled operator computes; the PyTorch reference,
    which is slower and needs more memory, computes the rest. In short: with one or two axes, everything
    except strides, causal axes and padding zeros is compiled, for the CPU and, if nvcc was found, for CUDA.
    Both compute half precision in float32, but tensor cores of CUDA, and AMX of Intel's processors in
    bfloat16, round attention weights to half precision before they multiply the values. Results and
    gradients of the compiled operator do not depend on the number of threads, and are the same in every run
    on CUDA. Those of the reference are deterministic if torch's are, which on CUDA needs
    ``torch.use_deterministic_algorithms(True)``.

    Under autocast, query, key and value are cast to autocast's dtype (float64 is not cast), while a float32
    rpb stays as it is. Differentiable to any order in query, key, value and rpb; the reference computes
    derivatives after the first, and those in forward mode. torch.func's transforms work, also in
    torch.compile (the reference then computes their derivatives). vmap makes one call; if rpb is mapped or
    gets a gradient, it is a loop.

    Args:
        query: ``(B, H, W, heads, head_dim)``; float32, float64, float16 or bfloat16, any strides.
        key: like query.
        value: like query.
        kernel_size: keys in a window on each axis, odd or even, one int or ``(k_h, k_w)``.
        stride: consecutive queries that share the window of the one in their middle (on a causal axis: of
            the last), one int or ``(s_h, s_w)``; at most ``kernel_size``, and 1 with padding valid.
        dilation: distance of neighboring keys in a window, one int or ``(d_h, d_w)``. Padding shifted
            needs ``k_h * d_h <= H`` and ``k_w * d_w <= W``, padding valid ``(k_h - 1) * d_h < H`` and
            so on.
        is_causal: whether keys after the query are absent from its window, one bool or one per axis;
            the window then ends at the query.
        scale: factor of the dot products; None for ``head_dim ** -0.5``.
        rpb: relative position bias ``(heads, 2 * k_h - 1, 2 * k_w - 1)``, added to the scaled dot
            products; None for no bias. On each axis, a key's entry is ``key - query + k - 1``. There is an
            entry for every combination of the other arguments, because a query is always in its own
            window. Zero keys have one too; their logit is the bias alone. Causal axes use only the first
            ``k`` entries.
        padding: ``'shifted'``, ``'zeros'`` or ``'valid'``.

    Returns:
        Contiguous ``(B, H, W, heads, head_dim)`` in the dtype of query; with padding valid, each axis is
        ``dilation * (kernel_size - 1)`` shorter.

    Raises:
        TypeError: If an argument's type or dtype is wrong.
        ValueError: If shapes, devices and window do not fit together.
    """
    return _neighborhood_attention(
        2, query, key, value, kernel_size, stride, dilation, is_causal, scale, rpb, padding
    )


def na3d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    rpb: Tensor | None = None,
    padding: str = 'shifted',
) -> Tensor:
    """Three-dimensional neighborhood attention; all that :func:`na2d` says holds, with three axes.

    Compiled only if an axis has kernel_size 1, as in attention within each frame of a video: that axis
    then joins the batch.

    Args:
        query: ``(B, D, H, W, heads, head_dim)``; float32, float64, float16 or bfloat16, any strides.
        key: like query.
        value: like query.
        kernel_size: keys in a window on each axis, one int or one per axis.
        stride: queries that share a window, at most ``kernel_size``, one int or one per axis.
        dilation: distance of neighboring keys in a window, one int or one per axis.
        is_causal: whether keys after the query are absent, one bool or one per axis.
        scale: factor of the dot products; None for ``head_dim ** -0.5``.
        rpb: relative position bias ``(heads, 2 * k_d - 1, 2 * k_h - 1, 2 * k_w - 1)``; None for no bias.
        padding: ``'shifted'``, ``'zeros'`` or ``'valid'``.

    Returns:
        Contiguous ``(B, D, H, W, heads, head_dim)`` in the dtype of query; with padding valid, each axis is
        ``dilation * (kernel_size - 1)`` shorter.

    Raises:
        TypeError: If an argument's type or dtype is wrong.
        ValueError: If shapes, devices and window do not fit together.
    """
    return _neighborhood_attention(
        3, query, key, value, kernel_size, stride, dilation, is_causal, scale, rpb, padding
    )
