"""The compiled operators ``torch.ops.natten_ops.na_forward`` and ``na_backward``.

Loads the library, whose C++ side declares the schemas (csrc/registration.cpp), and attaches what is
written in Python: shape rules for torch.compile, and autograd, so that callers of ``torch.ops`` get
gradients as well as callers of :func:`natten_ops.na2d`.
"""

import functools
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .reference import neighborhood_attention_reference


def _load_library() -> bool:
    """Load the compiled library; where that fails, say so once and return False."""
    library = Path(__file__).with_name('_C.abi3.so')
    remedy = (
        'natten_ops falls back to its PyTorch reference, which is much slower and needs more memory;'
        ' to build the library, run `pip install .` in the source of mmnat'
    )
    if not library.exists():
        warnings.warn(f'the compiled library {library} does not exist; {remedy}', stacklevel=2)
        return False
    try:
        torch.ops.load_library(library)
    except OSError as error:
        warnings.warn(f'the compiled library does not load ({error}); {remedy}', stacklevel=2)
        return False
    return True


def _forward_shapes(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:-1])


def _backward_shapes(
    grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_rpb = query.new_empty(0 if rpb is None else rpb.shape)
    return *(query.new_empty(query.shape) for _ in range(3)), grad_rpb


def _save_for_forward(ctx: Any, inputs: tuple, output: tuple) -> None:
    query, key, value, rpb, ctx.kernel_size, ctx.dilation, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(query, key, value, rpb, *output)


def _differentiate_forward(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple:
    query, key, value, rpb, output, logsumexp = ctx.saved_tensors
    grads = torch.ops.natten_ops.na_backward(
        grad_output, query, key, value, rpb, output, logsumexp, ctx.kernel_size, ctx.dilation, ctx.scale
    )  # fmt: skip
    return *grads[:3], None if rpb is None else grads[3], None, None, None


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    grad_output, query, key, value, rpb, _, _, ctx.kernel_size, ctx.dilation, ctx.scale = inputs
    ctx.save_for_backward(grad_output, query, key, value, rpb)


def _differentiate_backward(ctx: Any, *grad_grads: Tensor) -> tuple:
    """Second derivatives, through the reference."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            'natten_ops computes first and second derivatives only; for third ones call'
            ' natten_ops.reference.neighborhood_attention_reference'
        )
    saved = [None if t is None else t.detach().requires_grad_() for t in ctx.saved_tensors]
    grad_output, *inputs = saved
    wanted = [t for t in inputs if t is not None]
    with torch.enable_grad():
        output, _ = neighborhood_attention_reference(
            *inputs[:3], ctx.kernel_size, ctx.dilation, inputs[3], ctx.scale
        )
        grads = torch.autograd.grad(output, wanted, grad_output, create_graph=True)
        second = iter(torch.autograd.grad(grads, [grad_output, *wanted], grad_grads[: len(wanted)]))
    # In the order of na_backward's arguments: the five tensors, then output, logsumexp and numbers.
    return *(None if t is None else next(second) for t in saved), *(None,) * 5


#: Whether the compiled library is there.
HAS_LIBRARY = _load_library()

if HAS_LIBRARY:
    torch.library.register_fake('natten_ops::na_forward', _forward_shapes)
    torch.library.register_fake('natten_ops::na_backward', _backward_shapes)
    torch.library.register_autograd(
        'natten_ops::na_forward', _differentiate_forward, setup_context=_save_for_forward
    )
    torch.library.register_autograd(
        'natten_ops::na_backward', _differentiate_backward, setup_context=_save_for_backward
    )


def covers(query: Tensor) -> bool:
    """Whether a compiled kernel computes attention on this query's device."""
    has_kernel = query.device.type in ('cpu', 'meta')
    if HAS_LIBRARY and not has_kernel and not torch.compiler.is_compiling():
        _warn_of_reference(query.device.type)
    return HAS_LIBRARY and has_kernel


@functools.cache
def _warn_of_reference(device_type: str) -> None:
    warnings.warn(
        f'natten_ops has no kernel for {device_type} tensors; its PyTorch reference computes, which is slow'
        ' and gathers every window in memory',
        stacklevel=2,
    )
