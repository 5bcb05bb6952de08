"""Checks of the operator's arguments: each mismatch raises an exception that says what to change."""

import numbers
from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor

from .windows import PADDINGS

_SHAPES = {
    1: '(B, L, heads, head_dim)',
    2: '(B, H, W, heads, head_dim)',
    3: '(B, D, H, W, heads, head_dim)',
}
HALF_DTYPES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALF_DTYPES)

# Keeps every product with a length in int64.
_LARGEST = 2**31 - 1


def _is_usual(value: Any) -> bool:
    """Whether this is one of the values that nearly all calls have, which need no further look."""
    return type(value) is int and 1 <= value <= _LARGEST


def per_axis(name: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """``value`` as one positive int per axis.

    Raises:
        TypeError: If ``value`` is neither an int nor a sequence of ints.
        ValueError: If the number of entries is not ``rank``, or one is not in 1 to 2**31 - 1.
    """
    # torch.compile would trace these as symbols; as constants they make far simpler graphs.
    if _is_usual(value):
        return (index(value),) * rank  # type: ignore[arg-type]
    if type(value) is tuple and len(value) == rank and all(map(_is_usual, value)):
        return tuple(map(index, value))
    values = (value,) * rank if isinstance(value, (int, torch.SymInt)) else value
    if not isinstance(values, Sequence) or any(
        isinstance(v, bool) or not isinstance(v, (int, torch.SymInt)) for v in values
    ):
        raise TypeError(f'{name} must be an int or a tuple of {rank} ints, one per axis, got {value!r}')
    if len(values) != rank:
        raise ValueError(f'{name} must be an int or a tuple of {rank} ints, one per axis, got {value!r}')
    values = tuple(map(index, values))
    if any(v < 1 for v in values):
        raise ValueError(f'{name} must be positive, got {value!r}; use 1 or more')
    if any(v > _LARGEST for v in values):
        raise ValueError(f'{name} must be at most {_LARGEST}, got {value!r}; use a smaller one')
    return values


def flags_per_axis(name: str, value: bool | Sequence[bool], rank: int) -> tuple[bool, ...]:
    """``value`` as one bool per axis.

    Raises:
        TypeError: If ``value`` is neither a bool nor a sequence of bools.
        ValueError: If the number of entries is not ``rank``.
    """
    if isinstance(value, bool):
        return (value,) * rank
    values = value
    if not isinstance(values, Sequence) or not all(isinstance(v, bool) for v in values):
        raise TypeError(f'{name} must be a bool or a tuple of {rank} bools, one per axis, got {value!r}')
    if len(values) != rank:
        raise ValueError(f'{name} must be a bool or a tuple of {rank} bools, one per axis, got {value!r}')
    return tuple(values)


def check_types(query: Any, key: Any, value: Any, rpb: Any, rank: int) -> None:
    """Check that query, key and value are dense tensors, and rpb one or None.

    Raises:
        TypeError: If one is not.
    """
    for name, tensor in (('query', query), ('key', key), ('value', value), ('rpb', rpb)):
        if name == 'rpb' and tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            wanted = 'a tensor or None' if name == 'rpb' else f'a tensor {_SHAPES[rank]}'
            raise TypeError(f'{name} must be {wanted}, got {type(tensor).__name__}')
        if tensor.layout is not torch.strided:
            raise TypeError(
                f'{name} must be a dense tensor, got layout {tensor.layout};'
                f' convert it with {name}.to_dense()'
            )


def check_tensors(query: Tensor, key: Tensor, value: Tensor, rank: int) -> None:
    """Check that query, key and value are floating tensors of one shape, dtype and device.

    Raises:
        TypeError: If the dtypes do not fit.
        ValueError: If shapes or devices do not fit, or a dimension other than the batch is empty.
    """
    dtype, device, shape = query.dtype, query.device, query.shape
    # All at once, which takes less time; the loop says what does not hold.
    if (
        len(shape) == rank + 3
        and dtype in DTYPES
        and dtype == key.dtype == value.dtype
        and device == key.device == value.device
        and shape == key.shape == value.shape
        and 0 not in shape[1:]
    ):
        return
    for name, tensor in (('query', query), ('key', key), ('value', value)):
        if tensor.dim() != rank + 3:
            raise ValueError(
                f'{name} must be {_SHAPES[rank]}, got shape {tuple(tensor.shape)};'
                ' na1d, na2d and na3d take one, two and three spatial axes'
            )
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
                f'{name} must have the shape of query, {tuple(query.shape)}, got {tuple(tensor.shape)};'
                ' every token needs a query, a key and a value'
            )
    if any(size < 1 for size in query.shape[1:]):
        raise ValueError(
            f'query {_SHAPES[rank]} needs at least one token on every axis, one head and one channel,'
            f' got shape {tuple(query.shape)}; only the batch may be empty'
        )


def check_padding(padding: Any) -> None:
    """Check the name of the border treatment.

    Raises:
        TypeError: If it is not a string.
        ValueError: If no border treatment has that name.
    """
    if isinstance(padding, str) and padding in PADDINGS:
        return
    names = ', '.join(repr(name) for name in PADDINGS)
    error = ValueError if isinstance(padding, str) else TypeError
    raise error(f'padding must be one of {names}, got {padding!r}')


def check_window(
    spatial: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: str,
) -> None:
    """Check on every axis that the stride fits the window, and the dilated window the feature map.

    Raises:
        ValueError: If the stride exceeds ``kernel_size``, or is not 1 with padding valid. If the axis is
            shorter than ``kernel_size * dilation`` with padding shifted, or than the span of a window,
            ``(kernel_size - 1) * dilation + 1``, with padding valid.
    """
    remedy = "pad the input, use a smaller kernel_size or dilation, or padding='zeros'"
    axes = zip(spatial, kernel_size, stride, dilation, strict=True)
    for axis, (length, k, s, d) in enumerate(axes):
        if s > k:
            raise ValueError(
                f'stride must not exceed kernel_size, or queries would lie outside their window:'
                f' axis {axis} has stride {s} and kernel_size {k}; use a smaller stride'
            )
        if padding == 'valid' and s > 1:
            raise ValueError(
                "stride must be 1 with padding='valid', because the queries whose window fits whole would"
                f" be no rectangle: axis {axis} has stride {s}; use stride 1, or padding='shifted'"
            )
        if padding == 'shifted' and k * d > length:
            raise ValueError(
                f'kernel_size * dilation must not exceed the feature map: axis {axis} has {length}'
                f' tokens, kernel_size {k} and dilation {d} need {k * d}; {remedy} (the modules'
                ' NeighborhoodAttention1D, 2D and 3D pad on their own)'
            )
        if padding == 'valid' and (k - 1) * d >= length:
            raise ValueError(
                f"with padding='valid' a whole window must fit the feature map: axis {axis} has {length}"
                f' tokens, kernel_size {k} and dilation {d} span {(k - 1) * d + 1}; {remedy}'
            )


def check_rpb(rpb: Tensor, query: Tensor, kernel_size: Sequence[int]) -> None:
    """Check the relative position bias against query and kernel size.

    Raises:
        TypeError: If its dtype is not that of query (if query is in half precision, float32 is allowed
            too).
        ValueError: If shape or device do not fit.
    """
    expected = (query.shape[-2], *[2 * k - 1 for k in kernel_size])
    if tuple(rpb.shape) != expected:
        raise ValueError(
            f'rpb must be (heads, 2 * kernel_size - 1, ...) = {expected} for kernel_size'
            f' {tuple(kernel_size)} and {query.shape[-2]} heads, got {tuple(rpb.shape)};'
            ' give it that shape'
        )
    if rpb.dtype != query.dtype and not (query.dtype in HALF_DTYPES and rpb.dtype == torch.float32):
        raise TypeError(
            f'rpb must have the dtype of query, {query.dtype} (or float32 beside half precision), got'
            f' {rpb.dtype}; convert it with rpb.to(query.dtype)'
        )
    if rpb.device != query.device:
        raise ValueError(
            f'rpb must be on the device of query, {query.device}, got {rpb.device};'
            f' move it with rpb.to({str(query.device)!r})'
        )


def scale_or_default(scale: float | None, head_dim: int) -> float:
    """The factor of the dot products; ``head_dim ** -0.5`` for None.

    Raises:
        TypeError: If ``scale`` is not a number.
    """
    if scale is None:
        return head_dim**-0.5
    if isinstance(scale, bool) or not isinstance(scale, (numbers.Real, torch.SymInt, torch.SymFloat)):
        raise TypeError(
            f'scale must be a number or None, got {type(scale).__name__};'
            ' to learn a scale, multiply query by it'
        )
    return float(scale)
