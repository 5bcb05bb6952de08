"""torch.vmap of the compiled operators: the mapped dimension joins the batch, or is looped over.

The rules get the operator as an argument, because under nested transforms of torch.func it is not the plain
operator.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_Results = tuple[tuple[Tensor, ...], tuple[int, ...]]


def _mapped_first(tensors: Sequence[Tensor], dims: Sequence[int | None], batch_size: int) -> list[Tensor]:
    """The tensors with the mapped dimension in front; tensors that are not mapped are expanded."""
    return [
        tensor.expand(batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]


def _fold(operator: Callable[..., Any], tensors: Sequence[Tensor], batch_size: int) -> list[Tensor]:
    """One call, with the mapped dimension, which is in front, as part of the batch."""
    results = operator(*(tensor.flatten(0, 1) for tensor in tensors))
    return [result.unflatten(0, (batch_size, tensors[0].shape[1])) for result in results]


def _loop(operator: Callable[..., Any], tensors: Sequence[Tensor], batch_size: int) -> list[Tensor]:
    """One call for each entry of the mapped dimension, which is in front."""
    if batch_size == 0:  # one call, for the shapes
        results = operator(*(tensor.new_zeros(tensor.shape[1:]) for tensor in tensors))
        return [result.expand(0, *result.shape) for result in results]
    results = [operator(*(tensor[index] for tensor in tensors)) for index in range(batch_size)]
    return [torch.stack(result) for result in zip(*results, strict=True)]


def vmap_forward(
    forward: Callable[..., Any],
    info: Any,
    in_dims: Sequence[Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    *settings: Any,
) -> _Results:
    """The rule of na_forward, which ``forward`` calls."""
    tensors = _mapped_first((query, key, value), in_dims[:3], info.batch_size)
    if rpb is None or in_dims[3] is None:
        results = _fold(lambda *args: forward(*args, rpb, *settings), tensors, info.batch_size)
    else:
        tensors.append(rpb.movedim(in_dims[3], 0).contiguous())
        results = _loop(lambda *args: forward(*args, *settings), tensors, info.batch_size)
    return tuple(results), (0, 0)


def vmap_backward(
    backward: Callable[..., Any],
    info: Any,
    in_dims: Sequence[Any],
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    output: Tensor,
    logsumexp: Tensor,
    *settings: Any,
) -> _Results:
    """The rule of na_backward, which ``backward`` calls.

    With a bias it is a loop, because the bias' gradient is summed over the batch.
    """
    tensors = [grad_output, query, key, value, output, logsumexp]
    tensors = _mapped_first(tensors, (*in_dims[:4], *in_dims[5:7]), info.batch_size)
    # The kernel needs a contiguous log-sum-exp and a contiguous bias.
    tensors[5] = tensors[5].contiguous()
    if rpb is None:
        results = _fold(
            lambda *args: backward(*args[:4], None, *args[4:], *settings)[:3], tensors, info.batch_size
        )
        results.append(query.new_empty(info.batch_size, 0))
    else:
        tensors += _mapped_first([rpb], in_dims[4:5], info.batch_size)
        tensors[6] = tensors[6].contiguous()
        results = _loop(
            lambda *args: backward(*args[:4], args[6], *args[4:6], *settings), tensors, info.batch_size
        )
    return tuple(results), (0, 0, 0, 0)
