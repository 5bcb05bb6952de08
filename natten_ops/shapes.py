"""Shapes of the compiled operators' results, and their numbers of operations, without running them.

torch.compile and torch.export use the shapes, torch.utils.flop_counter.FlopCounterMode the operations.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .arguments import HALF_DTYPES


def _forward_shapes(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.float32 if query.dtype in HALF_DTYPES else query.dtype
    return query.new_empty(query.shape), query.new_empty(query.shape[:-1], dtype=dtype)


def _backward_shapes(
    grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_rpb = query.new_empty(0) if rpb is None else rpb.new_empty(rpb.shape)
    grad_query, grad_key, grad_value = (query.new_empty(query.shape) for _ in range(3))
    return grad_query, grad_key, grad_value, grad_rpb


def _packed_forward_shapes(qkv: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _forward_shapes(qkv.select(-3, 0))


def _packed_backward_shapes(
    grad_output: Tensor, qkv: Tensor, rpb: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor]:
    return qkv.new_empty(qkv.shape), qkv.new_empty(0) if rpb is None else rpb.new_empty(rpb.shape)


def _forward_operations(
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    rpb: Sequence[int] | None,
    kernel_size: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Two for every multiply-add of the two products, query with key and weight with value."""
    return 4 * math.prod(query) * math.prod(kernel_size)


def _backward_operations(
    grad_output: Sequence[int],
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    rpb: Sequence[int] | None,
    output: Sequence[int],
    logsumexp: Sequence[int],
    kernel_size: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Five products of the forward's size: the logits again, and those of four gradients."""
    return 10 * math.prod(query) * math.prod(kernel_size)


def _packed_forward_operations(
    qkv: Sequence[int], rpb: Sequence[int] | None, kernel_size: Sequence[int], *_: Any, **__: Any
) -> int:
    return 4 * math.prod(qkv) // 3 * math.prod(kernel_size)


def _packed_backward_operations(
    grad_output: Sequence[int],
    qkv: Sequence[int],
    rpb: Sequence[int] | None,
    output: Sequence[int],
    logsumexp: Sequence[int],
    kernel_size: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    return 10 * math.prod(grad_output) * math.prod(kernel_size)


def register() -> None:
    """Attach the rules to the compiled operators."""
    torch.library.register_fake('natten_ops::na_forward', _forward_shapes)
    torch.library.register_fake('natten_ops::na_backward', _backward_shapes)
    torch.library.register_fake('natten_ops::na_packed_forward', _packed_forward_shapes)
    torch.library.register_fake('natten_ops::na_packed_backward', _packed_backward_shapes)
    register_flop_formula([torch.ops.natten_ops.na_forward])(_forward_operations)
    register_flop_formula([torch.ops.natten_ops.na_backward])(_backward_operations)
    register_flop_formula([torch.ops.natten_ops.na_packed_forward])(_packed_forward_operations)
    register_flop_formula([torch.ops.natten_ops.na_packed_backward])(_packed_backward_operations)
