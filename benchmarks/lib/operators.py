"""The implementations of neighborhood attention that are measured."""

import dataclasses
import inspect
from dataclasses import dataclass

from torch import Tensor

from mmnat.errors import UserError
from natten_ops import dispatch, na2d
from natten_ops.reference import neighborhood_attention_reference

from .cases import Case, attention_computation
from .flex import flex_computation
from .window_attention import window_computation
from .workload import Computation


def check_kernels(device_name: str) -> None:
    """Check that natten_ops computes with kernels there; raises UserError if it would not."""
    if dispatch.CPU_PROBLEM:
        raise UserError('natten_ops has no compiled library', 'run `pip install .`')
    if device_name == 'cuda' and dispatch.CUDA_PROBLEM:
        raise UserError('natten_ops has no kernels for CUDA', dispatch.CUDA_PROBLEM)


def natten_ops_computation(case: Case) -> Computation:
    """This project's operator."""

    def attention(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
        return na2d(query, key, value, case.kernel_size, dilation=case.dilation, rpb=rpb)

    return attention_computation(case, attention)


def reference_computation(case: Case) -> Computation:
    """The definition in plain PyTorch."""

    def attention(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
        output, _ = neighborhood_attention_reference(
            query,
            key,
            value,
            kernel_size=(case.kernel_size,) * 2,
            dilation=(case.dilation,) * 2,
            rpb=rpb,
            scale=case.head_dim**-0.5,
        )
        return output

    return attention_computation(case, attention)


def natten_computation(case: Case) -> Computation:
    """The natten package: releases that still have a bias with it, later ones without."""
    from natten.functional import na2d as natten_na2d

    settings = dict(kernel_size=case.kernel_size, dilation=case.dilation)
    has_bias = 'rpb' in inspect.signature(natten_na2d).parameters

    def attention(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
        bias = dict(rpb=rpb) if has_bias else {}
        return natten_na2d(query, key, value, **settings, **bias)

    computation = attention_computation(case, attention)
    if has_bias:
        return computation
    return dataclasses.replace(computation, wanted=computation.wanted[:3], note='without bias')


# Window attention is an alternative to neighborhood attention with as many keys, not the same thing.
COMPUTATIONS = {
    'natten_ops': natten_ops_computation,
    'swin-sdpa': lambda case: window_computation(case, fused=True),
    'swin-matmul': lambda case: window_computation(case, fused=False),
    'reference': reference_computation,
    'flex_attention': flex_computation,
    'natten': natten_computation,
}


@dataclass(frozen=True)
class OperatorWorkload:
    """One implementation of attention over one case.

    Attributes:
        case: The case.
        implementation: Name in :data:`COMPUTATIONS`.
        direction: One of :data:`benchmarks.lib.workload.DIRECTIONS`.
    """

    case: Case
    implementation: str
    direction: str

    @property
    def device(self) -> str:
        """Name of the device."""
        return self.case.device

    def build(self) -> Computation:
        """Make the inputs."""
        return COMPUTATIONS[self.implementation](self.case)

    def warm_up(self) -> 'OperatorWorkload':
        """A small map; FlexAttention compiles for every case anew, and so is warm only after the case."""
        if self.implementation == 'flex_attention':
            return self
        side = 2 * self.case.kernel_size
        small = dataclasses.replace(self.case, height=side, width=side, batch=1, dilation=1)
        return dataclasses.replace(self, case=small)
