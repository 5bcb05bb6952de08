"""Neighborhood attention with torch's FlexAttention."""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from .cases import Case, attention_computation
from .workload import Computation

# Tokens of a block of the mask: of 32, 64 and 128 the fastest on the CPU; on CUDA torch's default, of which
# its kernels' tiles are parts.
BLOCK = {'cpu': 32, 'cuda': 128}


def flex_computation(case: Case, compiled: bool = True) -> Computation:
    """FlexAttention over the flattened map, with the windows as block mask and the bias added to scores.

    Args:
        case: The case.
        compiled: Compile it, on the first call; what is not compiled stores all pairs of tokens.
    """
    width, kernel_size, dilation = case.width, case.kernel_size, case.dilation
    first_rows, first_columns = (
        first_key(length, kernel_size, dilation, case.device) for length in (case.height, width)
    )

    def in_window(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = key // width - first_rows[query // width]
        column = key % width - first_columns[query % width]
        inside = True
        for offset in (row, column):
            inside = inside & (offset >= 0) & (offset < kernel_size * dilation) & (offset % dilation == 0)
        return inside

    # If the mask is false, nothing is computed, but the indices still have to be valid.
    def bias_entry(key: Tensor, query: Tensor) -> Tensor:
        return ((key - query) // dilation + kernel_size - 1).clamp(0, 2 * kernel_size - 2)

    mask = window_blocks(case, first_rows, first_columns, in_window)
    attend = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
        def add_bias(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            row = bias_entry(key // width, query // width)
            return score + rpb[head, row, bias_entry(key % width, query % width)]

        heads_first = (tensor.flatten(1, 2).transpose(1, 2) for tensor in (query, key, value))
        output = attend(*heads_first, score_mod=add_bias, block_mask=mask)
        return output.transpose(1, 2).unflatten(1, case.query_shape[1:3])

    return attention_computation(case, attention)


def first_key(length: int, kernel_size: int, dilation: int, device: str) -> Tensor:
    """The first key in the window of every token of an axis."""
    token = torch.arange(length, device=device)
    residue, position = token % dilation, token // dilation
    tokens_of_residue = (length - residue + dilation - 1) // dilation
    start = torch.minimum((position - kernel_size // 2).clamp(min=0), tokens_of_residue - kernel_size)
    return start * dilation + residue


def window_blocks(case: Case, first_rows: Tensor, first_columns: Tensor, in_window: object) -> BlockMask:
    """The blocks in which windows have keys, found from the windows: all pairs of tokens are too many."""
    tokens = case.height * case.width
    offsets = torch.arange(case.kernel_size, device=first_rows.device) * case.dilation
    rows, columns = (first[:, None] + offsets for first in (first_rows, first_columns))
    keys = (rows[:, None, :, None] * case.width + columns[:, None, :]).reshape(tokens, -1)
    queries = torch.arange(tokens, device=keys.device)[:, None].expand_as(keys)
    block = BLOCK[case.device]
    count = -(-tokens // block)
    used = torch.zeros(count, count, dtype=torch.int32, device=keys.device)
    used[queries // block, keys // block] = 1
    order = used.argsort(dim=-1, descending=True, stable=True).int()
    return BlockMask.from_kv_blocks(
        used.sum(-1, dtype=torch.int32)[None, None],
        order[None, None],
        BLOCK_SIZE=block,
        mask_mod=in_window,
        seq_lengths=(tokens, tokens),
    )
