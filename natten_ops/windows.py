"""Which keys a query attends to: the definition of the window, one axis at a time.

On an axis with dilation ``d``, tokens with equal index modulo ``d`` form a sub-sequence; all that follows
happens within one, of ``m`` tokens, with positions counted in it. Every ``stride`` queries in a row form a
group that shares the window of its leader: the one at ``first + stride // 2``, on a causal axis the one at
``first + stride - 1``, and in an incomplete last group at most ``m - 1``. With stride 1 every query leads
itself. Of a query at position ``p``, with ``k`` for kernel_size, the window holds the ``k`` keys

- from ``leader - k // 2`` on, if the axis is not causal; with padding shifted they are shifted inwards
  at the borders, so that all lie inside;
- that end with the leader, if it is causal; of these, keys after ``p`` are absent, and with padding
  shifted those before the start are, too. Causal windows are not shifted.

Absent keys have no part in the softmax. With padding zeros, keys of the window that lie outside the feature
map are zero keys with zero values, which take part. With padding valid, only queries whose window lies
inside the feature map have an output.

A query is always in its own window, since ``stride <= k``. So the position of a key relative to its query
is at most ``k - 1`` in magnitude, and the relative position bias has an entry for every key, for zero keys
too: entry ``key - query + k - 1`` of ``0 .. 2 k - 2``. Causal axes use only the first ``k`` entries.

Sources: Hassani et al., Neighborhood Attention Transformer (arXiv 2204.07143, eq. 1-3); Dilated
Neighborhood Attention Transformer (arXiv 2209.15001, eq. 1-2); Generalized Neighborhood Attention
(arXiv 2504.16922) for strides; Ramachandran et al., Stand-Alone Self-Attention (arXiv 1906.05909) for
zeros.
"""

from typing import NamedTuple

import torch
from torch import Tensor

#: What happens to windows at the borders.
PADDINGS = ('shifted', 'zeros', 'valid')


class Windows(NamedTuple):
    """The windows of the queries of one axis.

    Attributes:
        keys: int64 ``(queries, kernel_size)``, the index of every key; the length of the axis, one past the
            last token, stands for a key outside the feature map.
        bias: int64 ``(queries, kernel_size)``, every key's entry in the relative position bias.
        has_outside: whether ``keys`` may hold keys outside the feature map.
        absent: bool ``(queries, kernel_size)``, the keys that have no part in the softmax; None if all
            have.
    """

    keys: Tensor
    bias: Tensor
    has_outside: bool
    absent: Tensor | None


def valid_range(length: int, kernel_size: int, dilation: int, is_causal: bool) -> tuple[int, int]:
    """First query, and number of queries, whose whole window lies inside an axis (stride 1)."""
    first = (kernel_size - 1 if is_causal else kernel_size // 2) * dilation
    return first, length - (kernel_size - 1) * dilation


def axis_windows(
    length: int,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    is_causal: bool = False,
    padding: str = 'shifted',
    device: torch.device | None = None,
) -> Windows:
    """The windows of one axis, by the definition at the top of this file.

    Args:
        length: tokens on the axis; with padding shifted at least ``kernel_size * dilation``.
        kernel_size: keys in a window.
        stride: queries that share a window, at most ``kernel_size``; 1 for padding valid.
        dilation: distance of neighboring keys.
        is_causal: whether keys after the query are absent.
        padding: one of :data:`PADDINGS`.
        device: the device of the results.

    Returns:
        The windows of all tokens; for padding valid, of those in :func:`valid_range`.
    """
    first, queries = (
        valid_range(length, kernel_size, dilation, is_causal) if padding == 'valid' else (0, length)
    )
    token = torch.arange(first, first + queries, device=device)
    residue, position = token % dilation, token // dilation
    count = (length - residue + dilation - 1) // dilation
    leader = position
    if stride > 1:
        leader = position // stride * stride + (stride - 1 if is_causal else stride // 2)
        leader = torch.minimum(leader, count - 1)
    if is_causal:
        start = leader - kernel_size + 1
    else:
        start = leader - kernel_size // 2
        if padding == 'shifted':
            start = torch.minimum(start.clamp(min=0), count - kernel_size)
    window = start[:, None] + torch.arange(kernel_size, device=device)
    keys = window * dilation + residue[:, None]
    bias = window - position[:, None] + kernel_size - 1
    has_outside = padding == 'zeros' or (padding == 'shifted' and is_causal)
    if has_outside:
        keys = torch.where((window < 0) | (window >= count[:, None]), length, keys)
    absent = None
    if is_causal and padding != 'valid':
        absent = window > position[:, None]
        if padding == 'shifted':
            absent = absent | (window < 0)
    return Windows(keys, bias, has_outside, absent)
