"""The definition of neighborhood attention in plain PyTorch.

Any rank, dtype and device, differentiable to any order. It gathers every window and so needs
``prod(kernel_size)`` times the memory of key and value: it is what the kernels are tested against, and
what runs where there is no kernel. Source: Hassani et al., Neighborhood Attention Transformer
(arXiv 2204.07143, eq. 1-3) and Dilated Neighborhood Attention Transformer (arXiv 2209.15001, eq. 1-2).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def window_indices(
    length: int, kernel_size: int, dilation: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """The window of every token of one axis.

    Args:
        length: tokens on the axis, at least ``kernel_size * dilation``.
        kernel_size: keys in a window.
        dilation: distance of neighbouring keys; tokens with equal index modulo dilation form a
            sub-sequence, in which windows are centred and, at the borders, shifted inwards.
        device: where to make the results.

    Returns:
        Two int64 tensors ``(length, kernel_size)``: the index of every key, and its entry
        ``0 .. 2 * kernel_size - 2`` in the relative position bias.
    """
    token = torch.arange(length, device=device)
    residue, position = token % dilation, token // dilation
    count = (length - residue + dilation - 1) // dilation
    start = torch.minimum((position - kernel_size // 2).clamp(min=0), count - kernel_size)
    window = start[:, None] + torch.arange(kernel_size, device=device)
    return window * dilation + residue[:, None], window - position[:, None] + kernel_size - 1


def _gather_windows(tensor: Tensor, indices: Sequence[Tensor]) -> Tensor:
    """``(B, *spatial, heads, head_dim)`` to ``(B, *spatial, heads, window, head_dim)``."""
    rank = len(indices)
    for axis, index in enumerate(indices):
        dim = 1 + 2 * axis  # each axis before became two: token, offset in the window
        tensor = tensor.index_select(dim, index.flatten()).unflatten(dim, index.shape)
    tokens = [1 + 2 * axis for axis in range(rank)]
    offsets = [2 + 2 * axis for axis in range(rank)]
    tensor = tensor.permute(0, *tokens, 2 * rank + 1, *offsets, 2 * rank + 2)
    return tensor.flatten(rank + 2, -2)


def _gather_bias(rpb: Tensor, bias_indices: Sequence[Tensor]) -> Tensor:
    """``(heads, 2 * kernel_size - 1, ...)`` to ``(*spatial, heads, window)``."""
    rank = len(bias_indices)
    per_axis = []
    for axis, index in enumerate(bias_indices):
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = index.shape
        per_axis.append(index.view(shape))
    return rpb[(slice(None), *per_axis)].flatten(rank + 1).movedim(0, -2)


def neighborhood_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    rpb: Tensor | None,
    scale: float,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Neighborhood attention of any rank.

    Args:
        query: ``(B, *spatial, heads, head_dim)``.
        key: like query.
        value: like query.
        kernel_size: one per axis.
        dilation: one per axis.
        rpb: relative position bias ``(heads, 2 * kernel_size - 1, ...)`` or None.
        scale: factor of the dot products; the bias is added after scaling.
        dropout: probability of dropping an attention weight.

    Returns:
        The output, like query, and the log-sum-exp of every query's logits, ``(B, *spatial, heads)``.
    """
    windows = [
        window_indices(length, k, d, query.device)
        for length, k, d in zip(query.shape[1:-2], kernel_size, dilation, strict=True)
    ]
    indices = [index for index, _ in windows]
    logits = torch.einsum('...c,...tc->...t', query * scale, _gather_windows(key, indices))
    if rpb is not None:
        logits = logits + _gather_bias(rpb, [bias_index for _, bias_index in windows])
    weights = F.dropout(logits.softmax(-1), dropout)
    output = torch.einsum('...t,...tc->...c', weights, _gather_windows(value, indices))
    return output, logits.logsumexp(-1)
