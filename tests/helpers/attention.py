"""Attention problems for the tests of natten_ops: drawn at random, computed, compared with float64."""

import dataclasses
import math
import os
import random

import torch

from natten_ops import na1d, na2d, na3d
from natten_ops.reference import neighborhood_attention_reference

NAMES = ('query', 'key', 'value', 'rpb')
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ('contiguous', 'fused', 'transposed', 'sliced', 'expanded')

#: Largest difference allowed, over the largest value wanted where that exceeds 1.
TOLERANCES = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}

# Numbers that the reference may gather for one tensor; bounds time and memory of a test.
_LARGEST_GATHER = 400_000


def attend(query, key, value, kernel_size, dilation, rpb=None, scale=None, **settings):
    function = {4: na1d, 5: na2d, 6: na3d}[query.dim()]
    return function(query, key, value, kernel_size, dilation=dilation, rpb=rpb, scale=scale, **settings)


def reference(query, key, value, kernel_size, dilation, rpb=None, scale=None):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return neighborhood_attention_reference(query, key, value, kernel_size, dilation, rpb, scale)[0]


def gradients(function, inputs, grad, kernel_size, dilation):
    """Output, and the gradients of all inputs: query, key, value and, where it is there, rpb."""
    query, key, value, *rpb = inputs
    output = function(query, key, value, kernel_size, dilation, rpb[0] if rpb else None)
    return [output, *torch.autograd.grad(output, inputs, grad)]


@dataclasses.dataclass
class Problem:
    """One attention with shifted windows, stride 1, not causal: what is compiled.

    ``layouts`` are those of query, key, value and the output's gradient; ``rpb`` is None or its dtype.
    """

    batch: int
    spatial: tuple[int, ...]
    heads: int
    head_dim: int
    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]
    dtype: torch.dtype
    rpb: torch.dtype | None
    layouts: tuple[str, ...] = ('contiguous',) * 4
    seed: int = 0


def random_problem(source: random.Random, dtype: torch.dtype | None = None) -> Problem:
    """A problem that fits; every second one wide, for kernels that work on tiles of a row."""
    dtype = dtype or source.choice(DTYPES)
    rank = source.choice((1, 2, 2, 2, 2, 3))
    limits = [source.choice((9, 20, 70))] if rank == 1 else [9, 9] if source.random() < 0.5 else [20, 70]
    limits = [3] * (rank - 2) + limits if rank > 2 else limits
    axes = []
    for limit in limits:
        k = min(source.randint(1, 9), limit)
        d = source.randint(1, max(1, min(4, limit // k)))
        axes.append((source.randint(k * d, max(limit, k * d)), k, d))
    if rank == 3:  # compiled only with such an axis; the others compare the reference with itself
        axis = source.randrange(3)
        axes[axis] = (axes[axis][0], 1, axes[axis][2])
    spatial, kernel_size, dilation = zip(*axes, strict=True)
    window = math.prod(spatial) * math.prod(kernel_size)
    head_dims = [c for c in (1, 3, 8, 20, 28, 32, 40, 64) if c * window <= _LARGEST_GATHER] or [1]
    head_dim = source.choice(head_dims)
    rest = max(1, _LARGEST_GATHER // (window * head_dim))
    heads = source.randint(1, min(3, rest))
    batch = source.randint(1, min(2, max(1, rest // heads)))
    rpb = source.choice((None, dtype, torch.float32 if dtype.itemsize == 2 else dtype))
    layouts = tuple(source.choice(LAYOUTS) for _ in range(4))
    return Problem(
        batch, spatial, heads, head_dim, kernel_size, dilation, dtype, rpb, layouts, source.randrange(1000)
    )


def laid_out(shape, layout, dtype, generator):
    """Random numbers of a shape, as a view with the strides of ``layout``."""
    batch, *spatial, heads, head_dim = shape

    def draw(*sizes):
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype)

    if layout == 'fused':  # one of query, key and value of one projection
        return draw(batch, *spatial, 3, heads, head_dim).select(-3, 1)
    if layout == 'transposed':  # channels first
        return draw(batch, heads, head_dim, *spatial).movedim((1, 2), (-2, -1))
    if layout == 'sliced':  # steps everywhere, channels too
        whole = draw(*(2 * size + 1 for size in shape))
        return whole[tuple(slice(1, None, 2) for _ in shape)]
    if layout == 'expanded':
        return draw(1, *spatial, 1, head_dim).expand(shape)
    return draw(*shape)


def draw_inputs(problem: Problem):
    """Query, key, value and perhaps rpb, which all require gradients, and the output's gradient."""
    generator = torch.Generator().manual_seed(problem.seed)
    shape = (problem.batch, *problem.spatial, problem.heads, problem.head_dim)
    tensors = [laid_out(shape, layout, problem.dtype, generator) for layout in problem.layouts]
    grad = tensors.pop()
    if problem.rpb is not None:
        sizes = [2 * k - 1 for k in problem.kernel_size]
        tensors.append(torch.randn(problem.heads, *sizes, generator=generator).to(problem.rpb))
    return [t.detach().requires_grad_() for t in tensors], grad


def check(problem: Problem) -> None:
    """Output and all gradients against the reference in float64."""
    inputs, grad = draw_inputs(problem)
    actual = gradients(attend, inputs, grad, problem.kernel_size, problem.dilation)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    wanted = gradients(reference, exact, grad.double(), problem.kernel_size, problem.dilation)
    assert actual[0].is_contiguous()
    tolerance = TOLERANCES[problem.dtype]
    for name, source, a, w in zip(('output', *NAMES), [inputs[0], *inputs], actual, wanted, strict=False):
        assert a.dtype == source.dtype and a.shape == source.shape, (name, problem)
        error = float((a.double() - w).detach().abs().max())
        # The bias' gradient sums over all tokens, and its terms may cancel where their roundings do not.
        terms = problem.batch * math.prod(problem.spatial) if name == 'rpb' else 1
        magnitude = max(1.0, 0.1 * terms**0.5, float(w.detach().abs().max()))
        assert error <= tolerance * magnitude, (name, error, problem)
    if problem.dtype.itemsize == 2:
        # Rounded once: everything before the output is float32. Only AMX, which the variable switches off,
        # multiplies values by weights in bfloat16.
        eps = torch.finfo(problem.dtype).eps
        rounding = eps * wanted[0].abs() + 2e-5 * wanted[0].abs().max()
        if problem.dtype == torch.bfloat16 and 'ATEN_CPU_CAPABILITY' not in os.environ:
            rounding += eps / 2 * exact[2].detach().abs().max()
        assert ((actual[0].double() - wanted[0]).abs() <= rounding).all(), problem
