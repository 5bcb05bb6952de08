"""Neighborhood attention in plain PyTorch.

Any rank, dtype and device, differentiable to any order. It gathers every window and so needs
``prod(kernel_size)`` times the memory of key and value. Kernels are tested against it, and it computes what
no kernel does. The definition of a window is in windows.py.
"""

import functools
import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import autocast
from .arguments import HALF_DTYPES
from .windows import Windows, axis_windows, valid_range


def _select(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """The entries of dimension ``dim`` at ``index``; the dimension is replaced by those of ``index``."""
    # Its backward is faster, but torch 2.11 fails to differentiate it twice if sizes are symbols.
    if not any(isinstance(size, torch.SymInt) for size in tensor.shape):
        return tensor.index_select(dim, index.flatten()).unflatten(dim, index.shape)
    indices: tuple[slice | Tensor, ...] = (*(slice(None),) * dim, index)
    return tensor[indices]


def _gather_windows(tensor: Tensor, windows: Sequence[Windows]) -> Tensor:
    """``(B, *spatial, heads, head_dim)`` to ``(B, *queries, heads, window, head_dim)``."""
    rank = len(windows)
    for axis, window in enumerate(windows):
        dim = 1 + 2 * axis  # each axis before became two: query, offset in the window
        if window.has_outside:
            tensor = torch.cat((tensor, torch.zeros_like(tensor.narrow(dim, 0, 1))), dim)
        tensor = _select(tensor, dim, window.keys)
    queries = [1 + 2 * axis for axis in range(rank)]
    offsets = [2 + 2 * axis for axis in range(rank)]
    tensor = tensor.permute(0, *queries, 2 * rank + 1, *offsets, 2 * rank + 2)
    return tensor.flatten(rank + 2, -2)


def _spread(tables: Sequence[Tensor]) -> list[Tensor]:
    """One ``(queries, kernel_size)`` per axis, reshaped to broadcast to ``(*queries, *kernel_size)``."""
    rank = len(tables)
    spread = []
    for axis, table in enumerate(tables):
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = table.shape
        spread.append(table.view(shape))
    return spread


def _gather_bias(rpb: Tensor, windows: Sequence[Windows]) -> Tensor:
    """``(heads, 2 * kernel_size - 1, ...)`` to ``(*queries, heads, window)``."""
    entries = _spread([window.bias for window in windows])
    indices: tuple[slice | Tensor, ...] = (slice(None), *entries)
    return rpb[indices].flatten(len(windows) + 1).movedim(0, -2)


def _absent(windows: Sequence[Windows]) -> Tensor | None:
    """``(*queries, 1, window)``: the keys that are absent on at least one axis; None if none is."""
    if all(window.absent is None for window in windows):
        return None
    tables = [
        torch.zeros_like(window.keys, dtype=torch.bool) if window.absent is None else window.absent
        for window in windows
    ]
    return functools.reduce(operator.or_, _spread(tables)).flatten(len(windows)).unsqueeze(-2)


def neighborhood_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    rpb: Tensor | None,
    scale: float,
    dropout: float = 0.0,
    *,
    stride: Sequence[int] | None = None,
    is_causal: Sequence[bool] | None = None,
    padding: str = 'shifted',
) -> tuple[Tensor, Tensor]:
    """Neighborhood attention of any rank. The arguments are not checked.

    Half precision is computed in float32, also under autocast.

    Args:
        query: ``(B, *spatial, heads, head_dim)``.
        key: like query.
        value: like query.
        kernel_size: one per axis.
        dilation: one per axis.
        rpb: relative position bias ``(heads, 2 * kernel_size - 1, ...)`` or None.
        scale: factor of the dot products; the bias is added after scaling.
        dropout: probability of dropping an attention weight.
        stride: one per axis; None for 1.
        is_causal: one per axis; None for False.
        padding: one of :data:`natten_ops.windows.PADDINGS`.

    Returns:
        The output, like query (with padding valid each axis is ``dilation * (kernel_size - 1)``
        shorter), and the log-sum-exp of every query's logits, ``(B, *spatial, heads)``, in float32 for
        half precision.
    """
    rank = len(kernel_size)
    stride = (1,) * rank if stride is None else stride
    is_causal = (False,) * rank if is_causal is None else is_causal
    spatial = query.shape[1:-2]
    windows = [
        axis_windows(*axis, padding, query.device)
        for axis in zip(spatial, kernel_size, stride, dilation, is_causal, strict=True)
    ]
    if padding == 'valid':
        for axis, settings in enumerate(zip(spatial, kernel_size, dilation, is_causal, strict=True)):
            query = query.narrow(1 + axis, *valid_range(*settings))
    dtype = query.dtype
    # Autocast would cast the matrix products back to half precision.
    with autocast.disabled(query.device.type):
        if dtype in HALF_DTYPES:
            query, key, value = query.float(), key.float(), value.float()
            rpb = None if rpb is None else rpb.float()
        logits = torch.einsum('...c,...tc->...t', query * scale, _gather_windows(key, windows))
        if rpb is not None:
            logits = logits + _gather_bias(rpb, windows)
        absent = _absent(windows)
        if absent is not None:
            logits = logits.masked_fill(absent, float('-inf'))
        weights = F.dropout(logits.softmax(-1), dropout)
        output = torch.einsum('...t,...tc->...c', weights, _gather_windows(value, windows))
        return output.to(dtype), logits.logsumexp(-1)
