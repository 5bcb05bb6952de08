"""What the compiled operator computes: golden vectors, float64, NaN, threads, instruction sets."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention import DTYPES, NAMES, Problem, attend, check, gradients, random_problem, reference
from golden import OPERATOR_CASES, expected, operator_inputs, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from instruction_sets import CAPABILITIES, supported
from not_finite import PLACES, patterns

from natten_ops import dispatch, na2d, na3d


def test_library_is_loaded():
    assert not dispatch.CPU_PROBLEM


@pytest.mark.parametrize('case', OPERATOR_CASES, ids=lambda case: case['name'])
@pytest.mark.parametrize('function', [attend, reference])
def test_golden(case, function, record_property):
    inputs, grad = operator_inputs(case)
    results = gradients(function, inputs, grad, case['kernel_size'], case['dilation'])
    wanted = expected(case)
    names = ['output', *(f'grad_{name}' for name in NAMES[: len(inputs)])]
    assert set(names) == set(wanted)
    for name, result in zip(names, results, strict=True):
        error = relative_error(result, wanted[name])
        record_property(name, error)
        assert error <= 1e-5, (name, error)


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(DTYPES))
def test_against_float64_reference(source, dtype):
    check(random_problem(source, dtype))


@pytest.mark.parametrize(
    ('spatial', 'kernel_size', 'dilation', 'heads', 'head_dim'),
    [
        ((20, 70), (7, 7), (1, 1), 1, 32),
        ((19, 67), (5, 7), (2, 3), 1, 40),
        ((14, 33), (7, 4), (2, 4), 1, 64),
        ((7, 48), (7, 9), (1, 2), 1, 20),
        ((9, 65), (3, 3), (3, 1), 1, 128),
        ((5, 130), (5, 5), (1, 2), 1, 8),
        ((150,), (9,), (4,), 1, 72),
        ((13, 17), (13, 13), (1, 1), 1, 32),
        # Several bundles of heads, not all of one size, and blocks of columns.
        ((9, 170), (7, 7), (1, 1), 5, 32),
        ((6, 139), (3, 5), (2, 3), 3, 30),
        # Keys too far apart for two vectors.
        ((4, 150), (2, 7), (2, 21), 2, 16),
        ((3, 75), (3, 3), (1, 25), 3, 7),
        # The largest windows of products of matrices, and larger ones.
        ((17, 61), (15, 16), (1, 3), 2, 31),
        ((16, 35), (16, 8), (1, 4), 1, 96),
        ((17, 35), (17, 17), (1, 1), 1, 32),
    ],
)
@pytest.mark.parametrize('dtype', DTYPES)
def test_wide_rows(spatial, kernel_size, dilation, heads, head_dim, dtype):
    """Rows of many vectors, with a rest; more channels than the drawn problems have."""
    rpb_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    layouts = ('fused',) * 3 + ('contiguous',)
    check(Problem(1, spatial, heads, head_dim, kernel_size, dilation, dtype, rpb_dtype, layouts))


@pytest.mark.parametrize('rpb', [True, False])
@pytest.mark.parametrize('axis', [0, 1, 2])
def test_three_axes_of_which_one_is_single(axis, rpb):
    """na3d where one axis joins the batch is na2d on that axis' entries."""
    kernel_size = [3, 4, 5]
    kernel_size[axis] = 1
    dilation = [2, 1, 1]
    query, key, value = torch.randn(3, 2, 6, 7, 8, 2, 4)
    bias = torch.randn(2, *(2 * k - 1 for k in kernel_size)) if rpb else None
    actual = na3d(query, key, value, kernel_size, dilation=dilation, rpb=bias)
    inner = [values[:axis] + values[axis + 1 :] for values in (kernel_size, dilation)]
    slices = [
        na2d(*(t.select(1 + axis, i) for t in (query, key, value)), inner[0], dilation=inner[1],
             rpb=None if bias is None else bias.select(1 + axis, 0))
        for i in range(query.shape[1 + axis])
    ]  # fmt: skip
    assert actual.is_contiguous()
    assert torch.equal(actual, torch.stack(slices, 1 + axis))
    wide = [None if t is None else t.double() for t in (query, key, value, bias)]
    wanted = reference(*wide[:3], kernel_size, dilation, wide[3])
    assert torch.allclose(actual.double(), wanted, atol=1e-5)


def test_views_that_are_negated_when_read():
    """What torch keeps as a flag and the kernel cannot see."""
    query, key, value = (torch.randn(1, 6, 6, 2, 4, dtype=torch.complex64).conj().imag for _ in range(3))
    assert query.is_neg()
    assert torch.equal(na2d(query, key, value, 3), na2d(*(t.resolve_neg() for t in (query, key, value)), 3))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 1, 5, 6, 2, 3, generator=generator).to(dtype).unbind()
    rpb = torch.randn(2, 5, 3, generator=generator)
    output = attend(*inputs, (3, 2), 1, rpb)
    wanted = attend(*(t.double() for t in inputs), (3, 2), 1, rpb.double())
    assert output.dtype == dtype
    assert torch.allclose(output.double(), wanted, atol=0, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize('size', [(33, 30), (17, 130)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_threads_do_not_change_results(size, dtype):
    torch.manual_seed(0)
    inputs = [*torch.randn(3, 2, *size, 3, 32, dtype=dtype).unbind(), torch.randn(3, 13, 13)]
    inputs = [t.requires_grad_() for t in inputs]
    grad = torch.randn(2, *size, 3, 32, dtype=dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(gradients(attend, inputs, grad, (7, 7), (2, 1)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nan_stays_in_its_windows():
    query, key, value = torch.randn(3, 1, 9, 9, 1, 4)
    key[0, 0, 0] = float('nan')
    output = na2d(query, key, value, 3)
    touched = output.isnan().any(-1)[0, :, :, 0]
    assert touched[:2, :2].all() and touched.sum() == 4  # the windows that hold the corner


SPATIAL_KERNEL_SIZE_DILATION = [
    ((9, 9), 4, 2),
    ((16, 20), 7, 1),
    ((33, 18), 3, 2),
    ((9, 9), 3, 1),
    ((9, 9), 5, 1),
    ((16, 20), 7, 2),
    ((16, 20), 6, 2),
    ((33, 18), 7, 1),
]


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('window', SPATIAL_KERNEL_SIZE_DILATION)
def test_nan_stays_where_the_mathematics_puts_it(place, window):
    for name, actual, wanted in patterns(float('nan'), place, *window):
        assert torch.equal(actual, wanted), name


@pytest.mark.parametrize('number', [float('nan'), float('inf'), float('-inf')])
@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('window', SPATIAL_KERNEL_SIZE_DILATION[:3])
def test_not_finite_in_products_of_matrices(number, place, window):
    """Matrices hold tokens that a query does not attend to; zero times infinity is not a number."""
    for name, actual, wanted in patterns(number, place, *window, 'cpu', torch.bfloat16, head_dim=24):
        assert torch.equal(actual, wanted), name


@pytest.mark.parametrize('number', [float('inf'), float('-inf')])
@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('window', SPATIAL_KERNEL_SIZE_DILATION[:3])
def test_infinity_stays_where_the_mathematics_puts_it(number, place, window):
    for name, actual, wanted in patterns(number, place, *window):
        assert torch.equal(actual, wanted), name


def test_empty_batch():
    query = torch.randn(0, 5, 5, 2, 8, requires_grad=True)
    rpb = torch.randn(2, 5, 5, requires_grad=True)
    for options in ({}, dict(stride=2), dict(padding='zeros')):
        rpb.grad = None
        output = na2d(query, query, query, 3, rpb=rpb, **options)
        assert output.shape == query.shape
        output.sum().backward()
        assert rpb.grad.abs().sum() == 0
    assert na2d(query, query, query, 3, padding='valid').shape == (0, 3, 3, 2, 8)
    film = query[:, None]
    assert na3d(film, film, film, (1, 3, 3)).shape == film.shape


def test_offsets_beyond_32_bits():
    """Rows that lie 2**30 numbers apart: of this address space almost nothing is touched."""
    try:
        memory = mmap.mmap(-1, 3 * 2**32, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        pytest.skip('12 GiB of address space are not to be had')
    rows = torch.frombuffer(memory, dtype=torch.float32).view(3, 2**30)
    far = rows[:, : 4 * 5 * 2 * 4].unflatten(1, (4, 5, 2, 4)).unbind(1)  # query, key, value, gradient
    far = [t.unsqueeze(0) for t in far]
    near = torch.randn(4, 1, 3, 5, 2, 4).unbind()
    for a, b in zip(far, near, strict=True):
        a.copy_(b)
        assert a.stride(1) == 2**30
    results = []
    for *inputs, grad in (far, near):
        inputs = [t.detach().requires_grad_() for t in inputs]
        results.append(gradients(attend, inputs, grad, (3, 3), (1, 1)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize('capability', CAPABILITIES)
def test_every_instruction_set(capability):
    """The kernels that this machine would not choose on its own, on problems of all kinds."""
    if capability not in supported():
        pytest.skip(f'this machine has no {capability}')
    package = str(Path(dispatch.__file__).parents[1])
    environment = os.environ | dict(ATEN_CPU_CAPABILITY=capability, PYTHONPATH=package)
    script = Path(__file__).parents[1] / 'helpers/instruction_sets.py'
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.strip() == capability.upper()
