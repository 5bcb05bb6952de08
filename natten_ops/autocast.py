"""Autocast: query, key and value get autocast's dtype, as in torch's scaled_dot_product_attention.

float64 is not cast. A float32 relative position bias stays float32, so that a bias that is a parameter
keeps its precision; a bias in half precision gets autocast's dtype.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import HALF_DTYPES

#: The dispatch keys of the rule.
KEYS = ('AutocastCPU', 'AutocastCUDA')

_CAST = (torch.float32, *HALF_DTYPES)


def _is_available(device_type: str) -> bool:
    # torch.compile of torch 2.11 does not trace torch's own function.
    return device_type in ('cpu', 'cuda') or torch.amp.is_autocast_available(device_type)


def disabled(device_type: str) -> contextlib.AbstractContextManager[Any]:
    """A context that disables autocast, also for devices without autocast."""
    if _is_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


def cast(
    query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The tensors as autocast casts them, if it is enabled for query's device."""
    device_type = query.device.type
    if not (_is_available(device_type) and torch.is_autocast_enabled(device_type)):
        return query, key, value, rpb
    dtype = torch.get_autocast_dtype(device_type)
    if rpb is not None and rpb.dtype in HALF_DTYPES and query.dtype in _CAST:
        rpb = rpb.to(dtype)
    query, key, value = (t.to(dtype) if t.dtype in _CAST else t for t in (query, key, value))
    return query, key, value, rpb


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor]:
    tensors = cast(query, key, value, rpb)
    with disabled(query.device.type):
        return torch.ops.natten_ops.na_forward(*tensors, kernel_size, dilation, scale, allow_tf32)


def _packed_forward(
    qkv: Tensor,
    rpb: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor]:
    qkv, _, _, rpb = cast(qkv, qkv, qkv, rpb)
    with disabled(qkv.device.type):
        return torch.ops.natten_ops.na_packed_forward(qkv, rpb, kernel_size, dilation, scale, allow_tf32)


def register(library: torch.library.Library) -> None:
    """Attach the rule to the compiled forward; the backward gets what the forward saved, already cast."""
    for key in KEYS:
        library.impl('na_forward', _forward, key)
        library.impl('na_packed_forward', _packed_forward, key)
