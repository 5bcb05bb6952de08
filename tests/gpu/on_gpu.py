"""Attention problems (tests/helpers/attention.py) on the GPU, compared with float64."""

import math

import torch
from attention import NAMES, Problem, attend, draw_inputs, gradients

from natten_ops.reference import neighborhood_attention_reference

#: Largest difference allowed, over the largest value wanted where that exceeds 1.
TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2**-6, torch.float16: 1e-2}


def to_gpu(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers with the same strides."""
    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return whole.cuda().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def draw(problem: Problem) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Query, key, value and perhaps rpb, which all require gradients, and the output's gradient."""
    inputs, grad = draw_inputs(problem)
    return [to_gpu(t.detach()).requires_grad_() for t in inputs], to_gpu(grad)


def run(problem: Problem, inputs: list[torch.Tensor], grad: torch.Tensor) -> list[torch.Tensor]:
    """Output and all gradients."""
    return gradients(attend, inputs, grad, problem.kernel_size, problem.dilation)


def check(problem: Problem) -> None:
    """Output and all gradients against the reference in float64."""
    check_tensors(problem, *draw(problem))


def check_tensors(problem: Problem, inputs: list[torch.Tensor], grad: torch.Tensor) -> None:
    """The same for tensors that are not drawn."""
    actual = run(problem, inputs, grad)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    bias = exact[3] if problem.rpb else None
    scale = problem.head_dim**-0.5
    wanted = [
        *neighborhood_attention_reference(*exact[:3], problem.kernel_size, problem.dilation, bias, scale)
    ]
    # The backward starts from the rounded output, as tests/test_cuda_kernels.py says.
    rounding = (actual[0].double() - wanted[0]) * grad.double()
    grads = torch.autograd.grad(wanted, exact, [grad.double(), -rounding.sum(-1).detach()])
    wanted = [wanted[0], *grads]
    assert actual[0].is_contiguous()
    for name, source, a, w in zip(('output', *NAMES), [inputs[0], *inputs], actual, wanted, strict=False):
        assert (a.dtype, a.shape, a.device) == (source.dtype, source.shape, source.device), (name, problem)
        error = float((a.double() - w).detach().abs().max())
        # The bias' gradient sums over all tokens, and its terms may cancel where their roundings do not.
        terms = problem.batch * math.prod(problem.spatial) if name == 'rpb' else 1
        magnitude = max(1.0, 0.1 * terms**0.5, float(w.detach().abs().max()))
        assert error <= TOLERANCES[problem.dtype] * magnitude, (name, error, magnitude, problem)


def assert_equal(results: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    """Bit for bit."""
    for name, a, b in zip(('output', *NAMES), results, others, strict=False):
        assert torch.equal(a, b), name
