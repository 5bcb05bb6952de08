"""Neighborhood attention straight from its definition: loops over numbers, no tensors.

Written apart from natten_ops and slow; it checks the reference that all else is checked against.
"""

import itertools
import math

import torch


def keys_of(token, length, kernel_size, stride, dilation, is_causal, padding):
    """The window of a token of one axis: pairs of key (None for a zero key) and entry in the bias.

    None where the token has no output.
    """
    residue, position = token % dilation, token // dilation
    tokens = range(residue, length, dilation)
    last = len(tokens) - 1
    first_of_group = position - position % stride
    if is_causal:
        leader = min(first_of_group + stride - 1, last)
        window = [j for j in range(leader - kernel_size + 1, leader + 1) if j <= position]
        if padding == 'shifted':
            window = [j for j in window if j >= 0]
    else:
        leader = min(first_of_group + stride // 2, last)
        start = leader - kernel_size // 2
        if padding == 'shifted':
            while start < 0:
                start += 1
            while start + kernel_size - 1 > last:
                start -= 1
        window = range(start, start + kernel_size)
    inside = [0 <= j <= last for j in window]
    if padding == 'valid' and not all(inside):
        return None
    assert padding == 'zeros' or all(inside)
    return [
        (tokens[j] if is_inside else None, j - position + kernel_size - 1)
        for j, is_inside in zip(window, inside, strict=True)
    ]


def attention(query, key, value, kernel_size, stride, dilation, is_causal, scale, rpb, padding):
    """``(B, *spatial, heads, head_dim)`` in float64; one kernel_size, stride, ... per axis."""
    batch, *spatial, heads, head_dim = query.shape
    windows = [
        [keys_of(token, length, *settings, padding) for token in range(length)]
        for length, *settings in zip(spatial, kernel_size, stride, dilation, is_causal, strict=True)
    ]
    kept = [[token for token, keys in enumerate(axis) if keys is not None] for axis in windows]
    output = torch.empty(batch, *map(len, kept), heads, head_dim, dtype=torch.float64)
    zero = [0.0] * head_dim
    for sample, head in itertools.product(range(batch), range(heads)):
        for place in itertools.product(*(range(len(axis)) for axis in kept)):
            token = tuple(axis[index] for axis, index in zip(kept, place, strict=True))
            q = query[sample][token][head].tolist()
            logits, values = [], []
            for pairs in itertools.product(*(windows[axis][index] for axis, index in enumerate(token))):
                at = tuple(index for index, _ in pairs)
                is_zero = None in at
                k = zero if is_zero else key[sample][at][head].tolist()
                values.append(zero if is_zero else value[sample][at][head].tolist())
                logit = scale * sum(a * b for a, b in zip(q, k, strict=True))
                if rpb is not None:
                    entries = tuple(entry for _, entry in pairs)
                    assert all(0 <= e <= 2 * k - 2 for e, k in zip(entries, kernel_size, strict=True))
                    logit += float(rpb[head][entries])
                logits.append(logit)
            largest = max(logits)
            weights = [math.exp(logit - largest) for logit in logits]
            total = sum(weights)
            for channel in range(head_dim):
                weighted = sum(w * v[channel] for w, v in zip(weights, values, strict=True))
                output[(sample, *place, head, channel)] = weighted / total
    return output
