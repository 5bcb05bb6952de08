"""Checks of the operator's arguments: every mismatch is one exception that says what to change."""

from collections.abc import Sequence

import torch
from torch import Tensor

_SHAPES = {1: '(B, L, heads, head_dim)', 2: '(B, H, W, heads, head_dim)'}
HALF_DTYPES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALF_DTYPES)


def per_axis(name: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """``value`` as one positive int per axis.

    Raises:
        TypeError: where ``value`` is neither an int nor a sequence of ints.
        ValueError: where the number of entries is not ``rank``, or one is not positive.
    """
    values = (value,) * rank if isinstance(value, (int, torch.SymInt)) else value
    if not isinstance(values, Sequence) or any(
        isinstance(v, bool) or not isinstance(v, (int, torch.SymInt)) for v in values
    ):
        raise TypeError(f'{name} must be an int or a tuple of {rank} ints, got {value!r}')
    if len(values) != rank:
        raise ValueError(f'{name} must be an int or a tuple of {rank} ints, got {value!r}')
    if any(v < 1 for v in values):
        raise ValueError(f'{name} must be positive, got {value!r}')
    return tuple(values)


def check_tensors(query: Tensor, key: Tensor, value: Tensor, rank: int) -> None:
    """Check that query, key and value are floating tensors of one shape, dtype and device.

    Raises:
        TypeError: where one is not a tensor or the dtypes do not fit.
        ValueError: where shapes or devices do not fit.
    """
    for name, tensor in (('query', query), ('key', key), ('value', value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f'{name} must be a tensor {_SHAPES[rank]}, got {type(tensor).__name__}')
        if tensor.dim() != rank + 3:
            raise ValueError(f'{name} must be {_SHAPES[rank]}, got shape {tuple(tensor.shape)}')
        if tensor.dtype not in DTYPES:
            raise TypeError(
                f'{name} must be float32, float64, float16 or bfloat16, got {tensor.dtype};'
                f' convert it, e.g. {name}.float()'
            )
        if tensor.dtype != query.dtype:
            raise TypeError(
                f'{name} must have the dtype of query, {query.dtype}, got {tensor.dtype}; convert one'
            )
        if tensor.device != query.device:
            raise ValueError(
                f'{name} must be on the device of query, {query.device}, got {tensor.device};'
                f' move it with {name}.to({str(query.device)!r})'
            )
        if tensor.shape != query.shape:
            raise ValueError(
                f'{name} must have the shape of query, {tuple(query.shape)}, got {tuple(tensor.shape)}'
            )
    if query.shape[-1] < 1 or query.shape[-2] < 1:
        raise ValueError(f'query needs at least one head and channel, got {tuple(query.shape)}')


def check_window(spatial: Sequence[int], kernel_size: Sequence[int], dilation: Sequence[int]) -> None:
    """Check that the dilated window fits the feature map on every axis.

    Raises:
        ValueError: where ``kernel_size * dilation`` exceeds an axis.
    """
    for axis, (length, k, d) in enumerate(zip(spatial, kernel_size, dilation, strict=True)):
        if k * d > length:
            raise ValueError(
                f'kernel_size * dilation must not exceed the feature map: axis {axis} has {length}'
                f' tokens, kernel_size {k} and dilation {d} need {k * d}; pad the input (the modules'
                ' NeighborhoodAttention1D and 2D do), or use a smaller kernel_size or dilation'
            )


def check_rpb(rpb: Tensor, query: Tensor, kernel_size: Sequence[int]) -> None:
    """Check the relative position bias against query and kernel size.

    Raises:
        TypeError: where it is no tensor or has another dtype than query (beside half precision
            tensors it may also be float32).
        ValueError: where shape or device do not fit.
    """
    if not isinstance(rpb, Tensor):
        raise TypeError(f'rpb must be a tensor or None, got {type(rpb).__name__}')
    expected = (query.shape[-2], *(2 * k - 1 for k in kernel_size))
    if tuple(rpb.shape) != expected:
        raise ValueError(
            f'rpb must be (heads, 2 * kernel_size - 1, ...) = {expected} for kernel_size'
            f' {tuple(kernel_size)} and {query.shape[-2]} heads, got {tuple(rpb.shape)}'
        )
    if rpb.dtype != query.dtype and not (query.dtype in HALF_DTYPES and rpb.dtype == torch.float32):
        raise TypeError(f'rpb must have the dtype of query, {query.dtype}, got {rpb.dtype}')
    if rpb.device != query.device:
        raise ValueError(f'rpb must be on the device of query, {query.device}, got {rpb.device}')
