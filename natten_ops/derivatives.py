"""Derivatives of the compiled operators: the first by na_backward, higher ones by the reference.

:func:`register` attaches them to the operators, for torch.compile and direct callers. torch's transforms
(torch.func) cannot use what is attached in that way, and it is slow beside a small call. :func:`forward`,
:func:`backward`, :func:`packed_forward` and :func:`packed_backward` are the operators for all uses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor
from torch._guards import TracingContext

from .autocast import KEYS as AUTOCAST_KEYS
from .batching import vmap_backward, vmap_forward
from .reference import neighborhood_attention_reference


def _save_for_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    query, key, value, rpb, *ctx.settings = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros in place of the log-sum-exp's
    ctx.save_for_backward(query, key, value, rpb, *output)


def _differentiate_forward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Any, ...]:
    if grad_output is None:
        return (None,) * 8
    query, key, value, rpb, output, logsumexp = ctx.saved_tensors
    grads = backward(grad_output, query, key, value, rpb, output, logsumexp, *ctx.settings)
    return *grads[:3], None if rpb is None else grads[3], *(None,) * 4


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    grad_output, query, key, value, rpb, _, _, *ctx.settings = inputs
    ctx.save_for_backward(grad_output, query, key, value, rpb)


def _second_derivatives(
    ctx: Any, attend: Callable[..., Tensor], inputs: Sequence[Tensor], grad_grads: Sequence[Tensor]
) -> tuple[Any, ...]:
    """Derivatives of the gradients of ``attend`` at ctx's grad_output; they are differentiable again."""

    def gradients(grad_output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(attend, *inputs)[1](grad_output)

    return torch.func.vjp(gradients, ctx.saved_tensors[0], *inputs)[1](tuple(grad_grads[: len(inputs)]))


def _differentiate_backward(ctx: Any, *grad_grads: Tensor) -> tuple[Any, ...]:
    """Second derivatives."""
    _, query, key, value, rpb = ctx.saved_tensors
    kernel_size, dilation, scale, _ = ctx.settings

    def attend(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None = None) -> Tensor:
        return neighborhood_attention_reference(query, key, value, kernel_size, dilation, rpb, scale)[0]

    inputs = (query, key, value) if rpb is None else (query, key, value, rpb)
    second = _second_derivatives(ctx, attend, inputs, grad_grads)
    # In the order of na_backward's arguments: rpb, then output, logsumexp and settings.
    return *second, *((None,) if rpb is None else ()), *(None,) * 6


def _save_for_packed_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    qkv, rpb, *ctx.settings = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros in place of the log-sum-exp's
    ctx.save_for_backward(qkv, rpb, *output)


def _differentiate_packed_forward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Any, ...]:
    if grad_output is None:
        return (None,) * 6
    qkv, rpb, output, logsumexp = ctx.saved_tensors
    grad_qkv, grad_rpb = packed_backward(grad_output, qkv, rpb, output, logsumexp, *ctx.settings)
    return grad_qkv, None if rpb is None else grad_rpb, *(None,) * 4


def _save_for_packed_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    grad_output, qkv, rpb, _, _, *ctx.settings = inputs
    ctx.save_for_backward(grad_output, qkv, rpb)


def _differentiate_packed_backward(ctx: Any, *grad_grads: Tensor) -> tuple[Any, ...]:
    """Second derivatives."""
    _, qkv, rpb = ctx.saved_tensors
    kernel_size, dilation, scale, _ = ctx.settings

    def attend(qkv: Tensor, rpb: Tensor | None = None) -> Tensor:
        query, key, value = qkv.unbind(-3)
        return neighborhood_attention_reference(query, key, value, kernel_size, dilation, rpb, scale)[0]

    second = _second_derivatives(ctx, attend, (qkv,) if rpb is None else (qkv, rpb), grad_grads)
    return *second, *((None,) if rpb is None else ()), *(None,) * 6


# What is left out if the kernels are called: autograd and autocast, whose work is then done.
_DONE = torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradFunctionality)
for _key in ('AutogradOther', 'AutogradNestedTensor', *AUTOCAST_KEYS):
    _DONE |= torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _key))


class _NaForward(torch.autograd.Function):
    """na_forward."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        with torch._C._ExcludeDispatchKeyGuard(_DONE):
            return torch.ops.natten_ops.na_forward.default(*arguments)

    setup_context = staticmethod(_save_for_forward)
    backward = staticmethod(_differentiate_forward)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Any, ...]:
        return vmap_forward(forward, info, in_dims, *arguments)


class _NaBackward(torch.autograd.Function):
    """na_backward."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch._C._ExcludeDispatchKeyGuard(_DONE):
            return torch.ops.natten_ops.na_backward.default(*arguments)

    setup_context = staticmethod(_save_for_backward)
    backward = staticmethod(_differentiate_backward)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Any, ...]:
        return vmap_backward(backward, info, in_dims, *arguments)


class _NaPackedForward(torch.autograd.Function):
    """na_packed_forward."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        with torch._C._ExcludeDispatchKeyGuard(_DONE):
            return torch.ops.natten_ops.na_packed_forward.default(*arguments)

    setup_context = staticmethod(_save_for_packed_forward)
    backward = staticmethod(_differentiate_packed_forward)


class _NaPackedBackward(torch.autograd.Function):
    """na_packed_backward."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        with torch._C._ExcludeDispatchKeyGuard(_DONE):
            return torch.ops.natten_ops.na_packed_backward.default(*arguments)

    setup_context = staticmethod(_save_for_packed_backward)
    backward = staticmethod(_differentiate_packed_backward)


def supports_active_autograd() -> bool:
    """Whether the compiled operators can be differentiated by the autograd that is active now.

    They cannot in forward mode: they have no rule for it, and torch would silently use zero tangents. Nor
    can torch.func differentiate them inside of torch.compile, which traces only the plain operators. The
    reference supports both.
    """
    if forward_mode._current_level >= 0:
        return False
    return not (torch.compiler.is_compiling() and _is_differentiated_by_torch_func())


def _is_differentiated_by_torch_func() -> bool:
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == torch._C._functorch.TransformType.Grad for level in stack)


# torch.compile guards the stack of transforms itself. torch.compiler.assume_constant_result sets this
# attribute, but imports the compiler to do so, which takes as long as importing torch.
_is_differentiated_by_torch_func._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_transformed() -> bool:
    """Whether a torch.func transform is active outside of torch.compile."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return False
    return TracingContext.try_get() is None  # otherwise with fake tensors


def _call(function: type[torch.autograd.Function], operator: Any, arguments: tuple[Any, ...]) -> Any:
    """Call an operator so that what is active (tracing, transforms, autograd) can differentiate it."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return operator(*arguments)
    if torch._C._are_functorch_transforms_active():
        # The packed operators have no rule for vmap.
        has_rules = function in (_NaForward, _NaBackward)
        return function.apply(*arguments) if has_rules and is_transformed() else operator(*arguments)
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
        # Function.apply itself would first inspect a signature, which takes as long as the rest.
        return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]
    return function.forward(*arguments)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor]:
    """na_forward of tensors that autocast has cast.

    torch.vmap leaves an argument out that has its default.

    Returns:
        Output and log-sum-exp.
    """
    arguments = query, key, value, rpb, kernel_size, dilation, scale, allow_tf32
    return _call(_NaForward, torch.ops.natten_ops.na_forward, arguments)


def backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    output: Tensor,
    logsumexp: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """na_backward."""
    inputs = grad_output, query, key, value, rpb, output, logsumexp
    arguments = (*inputs, kernel_size, dilation, scale, allow_tf32)
    return _call(_NaBackward, torch.ops.natten_ops.na_backward, arguments)


def packed_forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    """na_packed_forward of tensors that autocast has cast; no torch.func transform may be active."""
    return _call(_NaPackedForward, torch.ops.natten_ops.na_packed_forward, arguments)


def packed_backward(*arguments: Any) -> tuple[Tensor, Tensor]:
    """na_packed_backward."""
    return _call(_NaPackedBackward, torch.ops.natten_ops.na_packed_backward, arguments)


def register() -> None:
    """Attach derivatives and torch.vmap to the compiled operators."""
    for name, function in (
        ('na_forward', _NaForward),
        ('na_backward', _NaBackward),
        ('na_packed_forward', _NaPackedForward),
        ('na_packed_backward', _NaPackedBackward),
    ):
        torch.library.register_autograd(
            f'natten_ops::{name}', function.backward, setup_context=function.setup_context
        )
    torch.library.register_vmap('natten_ops::na_forward', _NaForward.vmap)
    torch.library.register_vmap('natten_ops::na_backward', _NaBackward.vmap)
