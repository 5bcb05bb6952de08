"""What the CUDA kernels compute, on the CPU: emulated (tests/emulator/simt) and watched by sanitizers."""

import dataclasses
import math
import random
from functools import partial

import not_finite
import pytest
import torch
from attention import NAMES, Problem, draw_inputs, gradients, laid_out
from golden import OPERATOR_CASES, expected, operator_inputs, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from simt import build
from simt.kernels import Kernels, Worker

from natten_ops.reference import neighborhood_attention_reference

pytestmark = pytest.mark.skipif(not build.asan_library(), reason='needs GCC and its AddressSanitizer')

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HALF = (torch.bfloat16, torch.float16)
#: What tensor cores multiply: dtypes, and whether that takes TF32.
MULTIPLIED = [
    pytest.param(torch.bfloat16, False, id='bfloat16'),
    pytest.param(torch.float16, False, id='float16'),
    pytest.param(torch.float32, True, id='tf32'),
]
#: Families of kernels.
TENSOR_CORES = ('small', 'matrix')
HEAD_DIMS = (1, 3, 8, 16, 24, 32, 40, 64, 128)
#: Ascending, descending, and at random.
ORDERS = (0, 1, 7)
#: Largest difference allowed, over the largest value wanted where that exceeds 1.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}

# Pairs of a query and a key, times channels, of a drawn problem; bounds the time of a test.
_MOST_PRODUCTS = 400_000


@pytest.fixture(scope='module')
def worker():
    worker = Worker()
    yield worker
    worker.close()


def compute_type(dtype):
    return torch.float32 if dtype in HALF else dtype


def check(kernels: Kernels, problem: Problem, scale: float | None = None) -> None:
    """Output, log-sum-exp and all gradients against the reference in float64."""
    inputs, grad = draw_inputs(problem)
    scale = problem.head_dim**-0.5 if scale is None else scale
    axes = (problem.kernel_size, problem.dilation, scale)

    query, key, value, *rpb = (t.detach() for t in inputs)
    bias = rpb[0] if rpb else None
    output, logsumexp = kernels.forward(query, key, value, bias, *axes)
    actual = [output, logsumexp]
    actual += kernels.backward(grad, query, key, value, output, bias, logsumexp, *axes)

    exact = [t.detach().double().requires_grad_() for t in inputs]
    bias = exact[3] if problem.rpb else None
    wanted = [*neighborhood_attention_reference(*exact[:3], *axes[:2], bias, scale)]
    # The backward starts from the rounded output. A logit's gradient is weight * (... - grad * output), and
    # the log-sum-exp's is the weight, so the rounding acts as a gradient of the log-sum-exp.
    rounding = (output.double() - wanted[0]) * grad.double()
    wanted += torch.autograd.grad(wanted, exact, [grad.double(), -rounding.sum(-1).detach()])

    names = ('output', 'logsumexp', *NAMES[: len(inputs)])
    for name, a, w in zip(names, actual, wanted, strict=True):
        error = float((a.double() - w).detach().abs().max())
        # The bias' gradient sums over all tokens, and its terms may cancel where their roundings do not.
        terms = problem.batch * math.prod(problem.spatial) if name == 'rpb' else 1
        magnitude = max(1.0, 0.1 * terms**0.5, float(w.detach().abs().max()))
        assert error <= TOLERANCES[problem.dtype] * magnitude, (name, error, problem, scale)


@pytest.mark.parametrize('allow_tf32', [False, True], ids=['exact', 'tf32'])
@pytest.mark.parametrize('case', OPERATOR_CASES, ids=lambda case: f'cuda-{case["name"]}')
def test_golden(worker, case, allow_tf32, record_property):
    inputs, grad = operator_inputs(case)
    kernels = Kernels(worker, ORDERS, allow_tf32=allow_tf32)
    results = gradients(kernels.attend, inputs, grad, case['kernel_size'], case['dilation'])
    wanted = expected(case)
    names = ['output', *(f'grad_{name}' for name in NAMES[: len(inputs)])]
    for name, result in zip(names, results, strict=True):
        error = relative_error(result, wanted[name])
        record_property(name, error)
        assert error <= 1e-5, (name, error)


def random_problem(source: random.Random, dtype: torch.dtype) -> Problem:
    """A small problem, often with tokens that lie as the matrix kernels want them."""
    rank = source.choice((1, 2, 2))
    head_dim = source.choice(HEAD_DIMS)
    pairs = _MOST_PRODUCTS // max(32, head_dim)
    axes = []
    for axis in range(rank):
        most = pairs ** (1 / (rank - axis))  # for this axis
        k = source.choice([k for k in (1, 2, 3, 3, 4, 5, 5, 7, 7, 8, 9, 11, 13) if k * k <= most])
        length = source.randint(k, max(k, min(200 if rank == 1 else 40, int(most / k))))
        d = source.choice((1, 1, min(2, length // k), length // k, source.randint(1, length // k)))
        axes.append((length, k, d))
        pairs //= length * k
    source.shuffle(axes)
    spatial, kernel_size, dilation = zip(*axes, strict=True)
    heads = source.randint(1, max(1, min(3, pairs)))
    batch = source.randint(1, max(1, min(2, pairs // heads)))
    if source.random() < 0.8:
        layouts = source.choices(('contiguous', 'fused'), k=4)
    else:
        layouts = source.choices(('contiguous', 'fused', 'transposed', 'sliced', 'expanded'), k=4)
    rpb = source.choice((None, dtype, compute_type(dtype)))
    seed = source.randrange(1000)
    return Problem(batch, spatial, heads, head_dim, kernel_size, dilation, dtype, rpb, tuple(layouts), seed)


@pytest.mark.long
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_against_float64_reference(worker, dtype):
    @settings(max_examples=40, deadline=None)
    @given(st.randoms(use_true_random=False))
    def run(source):
        problem = random_problem(source, dtype)
        kernels = Kernels(worker, (0, source.randint(1, 1000)))
        kernels.scalar = source.random() < 0.2
        kernels.capability = source.choice((75, 80, 90))
        kernels.multiprocessors = source.choice((1, 2, 132))
        kernels.allow_tf32 = source.random() < 0.5
        layout = source.choice(('contiguous',) * 4 + ('fused', 'fused', 'transposed', 'sliced'))
        kernels.layout = lambda like: laid_out(like.shape, layout, like.dtype, None)
        check(kernels, problem, source.choice((None, None, 1.0, 0.07)))

    run()


@pytest.mark.parametrize(
    ('spatial', 'kernel_size', 'dilation', 'head_dim', 'heads'),
    [
        ((7, 7), (7, 7), (1, 1), 32, 2),  # one window
        ((20, 33), (7, 7), (1, 1), 32, 1),
        ((29, 22), (7, 7), (3, 3), 32, 1),
        ((28, 30), (7, 7), (4, 4), 16, 1),  # the largest dilation that fits
        ((13, 17), (13, 13), (1, 1), 64, 1),
        ((9, 40), (3, 9), (3, 2), 24, 3),
        ((40, 6), (11, 1), (2, 3), 8, 2),
        ((1, 70), (1, 5), (1, 1), 40, 1),
        ((17, 12), (4, 6), (2, 1), 128, 1),
        ((150,), (13,), (1,), 64, 1),
        ((131,), (7,), (18,), 32, 2),
        ((64,), (8,), (8,), 128, 1),
        ((5,), (5,), (1,), 3, 2),
        ((1,), (1,), (1,), 1, 1),
    ],
)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_orders_of_threads_do_not_change_results(
    worker, spatial, kernel_size, dilation, head_dim, heads, dtype
):
    layouts = ('fused', 'fused', 'fused', 'contiguous')
    bias = compute_type(dtype)
    problem = Problem(1, spatial, heads, head_dim, kernel_size, dilation, dtype, bias, layouts)
    kernels = Kernels(worker, ORDERS)
    check(kernels, problem)
    on_tensor_cores = dtype in HALF and head_dim % 8 == 0
    assert (kernels.family in TENSOR_CORES) == on_tensor_cores


@pytest.mark.parametrize('dtype', HALF, ids=str)
@pytest.mark.parametrize('capability', [75, 80])
def test_matrix_kernels_of_older_devices(worker, dtype, capability):
    """Less shared memory; before 8.0, bfloat16 and most of head_dim 128 are left to the scalar kernels."""
    for head_dim in (32, 128):
        problem = Problem(1, (16, 19), 1, head_dim, (7, 7), (1, 2), dtype, torch.float32)
        kernels = Kernels(worker, ORDERS, capability=capability)
        check(kernels, problem)
        on_tensor_cores = capability >= 80 or (dtype == torch.float16 and head_dim == 32)
        assert (kernels.family in TENSOR_CORES) == on_tensor_cores


@pytest.mark.parametrize(
    ('layouts', 'head_dim', 'dtype', 'helps'),
    [
        (('fused', 'fused', 'fused', 'sliced'), 32, torch.float16, True),
        (('contiguous', 'contiguous', 'contiguous', 'sliced'), 8, torch.bfloat16, True),
        (('contiguous', 'contiguous', 'sliced', 'sliced'), 32, torch.float16, False),
        (('contiguous', 'contiguous', 'contiguous', 'sliced'), 3, torch.float16, False),
        (('contiguous', 'contiguous', 'contiguous', 'sliced'), 32, torch.float32, True),
    ],
)
def test_faster_kernels_wait_for_a_contiguous_gradient(worker, layouts, head_dim, dtype, helps):
    """If only the gradient's strides keep a call from them, the caller copies it."""
    problem = Problem(1, (9, 8), 1, head_dim, (3, 3), (1, 1), dtype, None, layouts)
    kernels = Kernels(worker)
    check(kernels, problem)
    assert kernels.family == 'scalar'
    assert kernels.contiguous_gradient_helps == helps


@pytest.mark.parametrize(
    ('spatial', 'kernel_size', 'dilation', 'head_dim', 'scale'),
    [
        ((7, 7), 7, 1, 32, None),  # no patch with centered windows, by queries or keys
        ((14, 8), 7, 1, 32, -0.5),  # one row of patches with centered windows by queries
        ((22, 18), 7, 1, 32, None),  # the first by keys
        ((31, 33), 7, 1, 32, 1.0),  # a band that is cut at the end
        ((50, 15), 7, 1, 16, None),  # better with axes exchanged
        ((26, 53), 5, 1, 32, -1.0),
        ((38, 19), 3, 1, 8, None),
        ((45, 31), 5, 2, 24, 0.07),
        ((29, 40), 3, 3, 32, 0.0),  # left to the other kernels
    ],
)
@pytest.mark.parametrize('dtype', HALF, ids=str)
def test_small_windows(worker, spatial, kernel_size, dilation, head_dim, scale, dtype):
    """Patches with and without centered windows, in both layouts, with scales of all signs."""
    for layouts in (('fused', 'fused', 'fused', 'contiguous'), ('contiguous',) * 4):
        problem = Problem(
            1, spatial, 2, head_dim, (kernel_size,) * 2, (dilation,) * 2, dtype, torch.float32, layouts
        )
        check(Kernels(worker, ORDERS[::2]), problem, scale)


@pytest.mark.parametrize(
    ('spatial', 'kernel_size', 'dilation', 'heads', 'multiprocessors'),
    [
        ((25, 26), 7, (1, 1), 2, 1),  # whole strips; a last band whose windows begin a band earlier
        ((25, 26), 7, (1, 1), 2, 3),  # parts of strips
        ((25, 26), 7, (1, 1), 2, 132),  # every band has a block, also that last one
        ((18, 12), 7, (1, 1), 5, 1),  # more heads than blocks that run at once
        ((18, 12), 7, (1, 1), 2, 132),
        ((19, 29), 5, (1, 1), 2, 2),
        ((17, 40), 3, (1, 1), 2, 132),
        ((270, 9), 3, (1, 1), 2, 1),  # more bands than a word has bits
        ((30, 42), 7, (4, 4), 2, 1),  # stacked: classes of 8 rows and of 7
        ((236, 15), 7, (33, 2), 1, 1),  # more of them than a word has bits
        ((19, 31), 7, (2, 2), 2, 1),  # 9 and 10 rows
    ],
)
@pytest.mark.parametrize('capability', [75, 90])
def test_strips(worker, spatial, kernel_size, dilation, heads, multiprocessors, capability):
    """The kernels for small windows: however strips are cut, and with less and more shared memory."""
    layouts = ('fused', 'fused', 'fused', 'contiguous')
    window = (kernel_size,) * 2, dilation
    problem = Problem(2, spatial, heads, 32, *window, torch.float16, torch.float32, layouts)
    kernels = Kernels(worker, ORDERS[1:], capability=capability, multiprocessors=multiprocessors)
    check(kernels, problem)
    assert kernels.family == 'small'


@pytest.mark.parametrize(
    ('spatial', 'kernel_size', 'head_dim', 'scalar'),
    [
        ((18, 23), (7, 7), 32, False),  # for small windows
        ((23, 9), (3, 3), 16, False),  # with axes exchanged
        ((19, 17), (9, 4), 32, False),  # on tensor cores
        ((9, 12), (5, 3), 20, True),
        # On a device with too little shared memory for tables.
        pytest.param((18, 17), (18, 17), 4, True, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize('dtype', HALF, ids=str)
def test_bias_in_half_precision(worker, spatial, kernel_size, head_dim, scalar, dtype):
    """It gives the same as when it is widened to float32, and its gradient is that one rounded."""
    problem = Problem(2, spatial, 2, head_dim, kernel_size, (1, 1), dtype, dtype)
    (query, key, value, bias), grad = draw_inputs(problem)
    query, key, value, bias = (tensor.detach() for tensor in (query, key, value, bias))
    settings = (kernel_size, (1, 1), head_dim**-0.5)
    kernels = Kernels(worker, scalar=scalar, capability=75 if scalar else 90)

    def run(bias):
        output, logsumexp = kernels.forward(query, key, value, bias, *settings)
        grads = kernels.backward(grad, query, key, value, output, bias, logsumexp, *settings)
        return [output, logsumexp, *grads]

    *results, grad_bias = run(bias)
    *wanted, wanted_bias = run(bias.float())
    assert all(torch.equal(a, b) for a, b in zip(results, wanted, strict=True))
    assert wanted_bias.dtype == torch.float32 and torch.equal(grad_bias, wanted_bias.to(dtype))
    assert (kernels.family in TENSOR_CORES) == (not scalar)


@pytest.mark.parametrize(
    ('spatial', 'kernel_size', 'dilation', 'head_dim', 'scale'),
    [
        ((26, 30), (9, 9), (1, 1), 32, None),  # tiles of several bands and warps; borders of all kinds
        ((24, 31), (11, 11), (1, 1), 32, -0.5),
        ((27, 41), (13, 13), (1, 1), 32, None),
        ((31, 29), (13, 13), (2, 2), 16, 1.0),
        ((38, 20), (7, 7), (1, 1), 64, None),
        ((19, 26), (7, 7), (1, 2), 128, None),
        ((33, 17), (3, 3), (1, 1), 72, -1.0),
        ((22, 24), (5, 9), (2, 1), 48, 0.07),  # a window that is not square, axes exchanged or not
        ((24, 22), (9, 5), (1, 2), 48, 0.07),
        ((20, 23), (4, 8), (1, 1), 32, None),  # even windows
        ((9, 70), (1, 7), (1, 1), 32, None),  # rows on their own
        ((290,), (7,), (1,), 32, None),  # several tiles in one dimension
        ((150,), (25,), (2,), 64, -1.0),
        ((133,), (6,), (3,), 128, None),
    ],
)
@pytest.mark.parametrize(('dtype', 'allow_tf32'), MULTIPLIED)
def test_windows_of_any_size(worker, spatial, kernel_size, dilation, head_dim, scale, dtype, allow_tf32):
    """The kernels for what is not a small window: sizes, widths and borders."""
    layouts = ('fused', 'fused', 'fused', 'contiguous')
    kernels = Kernels(worker, ORDERS[::2], allow_tf32=allow_tf32)
    head_dim = min(head_dim, 32) if allow_tf32 else head_dim
    problem = Problem(1, spatial, 2, head_dim, kernel_size, dilation, dtype, torch.float32, layouts)
    check(kernels, problem, scale)
    few_keys = dtype == torch.float32 and kernel_size == (3, 3)
    assert kernels.family == ('staged' if few_keys else 'matrix')


@pytest.mark.parametrize('head_dim', [32, 8])
@pytest.mark.parametrize('scale', [None, -0.5])
def test_float32_as_sums_of_tf32(worker, head_dim, scale):
    """The largest error is a few millionths of the largest value, and there is none if TF32 is enough."""
    problem = Problem(1, (21, 26), 2, head_dim, (7, 7), (1, 2), torch.float32, torch.float32)
    inputs, _ = draw_inputs(problem)
    query, key, value, bias = (tensor.detach() for tensor in inputs)
    kernels = Kernels(worker, allow_tf32=True)
    settings = (problem.kernel_size, problem.dilation, head_dim**-0.5 if scale is None else scale)
    output, logsumexp = kernels.forward(query, key, value, bias, *settings)
    assert kernels.family == 'matrix'
    double = [tensor.double() for tensor in (query, key, value)]
    wanted = neighborhood_attention_reference(*double, *settings[:2], bias.double(), settings[2])
    for actual, exact in zip((output, logsumexp), wanted, strict=True):
        assert (actual - exact).abs().max() <= 3e-6 * exact.abs().max()
    exactly = Kernels(worker).forward(query, key, value, bias, *settings)
    assert not torch.equal(output, exactly[0])  # or else TF32 was not used


@pytest.mark.parametrize(
    'changes',
    [
        dict(head_dim=40),
        dict(head_dim=12),
        dict(kernel_size=(5, 5)),  # few keys
        dict(layouts=('sliced',) * 4),
    ],
)
def test_what_tf32_does_not_change(worker, changes):
    problem = dataclasses.replace(
        Problem(1, (17, 20), 1, 32, (7, 7), (1, 1), torch.float32, torch.float32), **changes
    )
    inputs, grad = draw_inputs(problem)
    results = [
        gradients(
            Kernels(worker, allow_tf32=allow).attend, inputs, grad, problem.kernel_size, problem.dilation
        )
        for allow in (False, True)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.long
@pytest.mark.parametrize(
    ('spatial', 'dilation'),
    [
        ((50, 76), 1),
        ((50, 76), 7),
        ((25, 38), 1),
        ((25, 38), 3),
        ((100, 152), 14),
        ((56, 56), 1),
        ((56, 56), 8),
        ((28, 28), 4),
        ((14, 14), 2),
        ((14, 14), 1),
        ((7, 7), 1),
    ],
    ids=str,
)
def test_feature_maps_of_the_models(worker, spatial, dilation):
    """Every kind of tile and border that a detector's and a classifier's feature maps have."""
    for layouts in (('fused', 'fused', 'fused', 'contiguous'), ('contiguous',) * 4):
        problem = Problem(1, spatial, 1, 32, (7, 7), (dilation,) * 2, torch.float16, torch.float32, layouts)
        kernels = Kernels(worker)
        check(kernels, problem)
        assert kernels.family == 'small'


@pytest.mark.parametrize(
    ('spatial', 'kernel_size', 'dilation', 'head_dim', 'scale'),
    [
        ((7, 7), (7, 7), (1, 1), 32, None),  # one window: all queries have the same rows of keys
        ((8, 17), (7, 7), (1, 1), 32, -0.5),  # windows shifted by less than the rows of a group
        ((33, 21), (7, 7), (1, 1), 32, None),  # groups with centered windows, and cut at the end
        ((11, 50), (3, 3), (1, 1), 16, 1.0),  # fewer rows in a window than queries in a group
        ((26, 40), (5, 5), (2, 3), 24, 0.07),
        ((18, 19), (9, 9), (1, 2), 64, 0.0),
        ((20, 12), (11, 11), (1, 1), 40, -1.0),
        ((26, 16), (13, 13), (2, 1), 32, None),
        ((21, 18), (4, 6), (1, 1), 20, None),  # windows that are not square, with even sides
        ((15, 40), (3, 9), (3, 2), 4, None),
        ((37, 5), (8, 1), (1, 1), 36, None),
    ],
)
@pytest.mark.parametrize('bias', [torch.float32, None], ids=['bias', 'no bias'])
def test_staged_windows(worker, spatial, kernel_size, dilation, head_dim, scale, bias):
    """The kernels for float32: borders of all kinds, in both layouts, with scales of all signs."""
    for layouts in (('fused', 'fused', 'fused', 'contiguous'), ('contiguous',) * 4):
        problem = Problem(1, spatial, 2, head_dim, kernel_size, dilation, torch.float32, bias, layouts)
        kernels = Kernels(worker, ORDERS[::2])
        check(kernels, problem, scale)
        assert kernels.family == 'staged'


@pytest.mark.parametrize(
    ('changes', 'capability'),
    [
        (dict(spatial=(60,), kernel_size=(7,), dilation=(1,)), 90),  # one axis
        (dict(kernel_size=(2, 7)), 90),  # too few rows
        (dict(spatial=(28, 25), kernel_size=(13, 13), head_dim=64), 90),  # too large a region
        (dict(head_dim=6), 90),
        (dict(head_dim=68), 90),
        (dict(layouts=('sliced',) * 4), 90),
        (dict(layouts=('contiguous', 'contiguous', 'contiguous', 'transposed')), 90),  # the backward
        (dict(), 75),
    ],
)
def test_what_is_left_to_the_scalar_kernels(worker, changes, capability):
    problem = Problem(1, (17, 20), 2, 32, (7, 7), (1, 1), torch.float32, torch.float32)
    kernels = Kernels(worker, capability=capability)
    check(kernels, dataclasses.replace(problem, **changes))
    assert kernels.family == 'scalar'


NAN, INFINITY = float('nan'), float('inf')


def check_not_finite(kernels, monkeypatch, number, place, spatial, kernel_size, dilation, dtype):
    monkeypatch.setattr(not_finite, 'attend', kernels.attend)
    for name, actual, wanted in not_finite.patterns(
        number, place, spatial, kernel_size, dilation, dtype=dtype
    ):
        assert torch.equal(actual, wanted), name


@pytest.mark.parametrize(
    ('number', 'spatial', 'kernel_size', 'dilation'),
    [
        (NAN, (9, 9), 4, 2),
        (NAN, (8, 7), 5, 1),
        (NAN, (5, 17), 3, 1),
        (INFINITY, (5, 6), 3, 1),
        (-INFINITY, (5, 6), 3, 1),
    ],
)
@pytest.mark.parametrize('place', not_finite.PLACES)
@pytest.mark.parametrize('dtype', [torch.float32, *HALF], ids=str)
def test_what_is_not_finite_stays_where_the_mathematics_puts_it(
    worker, monkeypatch, number, spatial, kernel_size, dilation, place, dtype
):
    kernels = Kernels(worker)
    check_not_finite(kernels, monkeypatch, number, place, spatial, kernel_size, dilation, dtype)
    assert kernels.family in (TENSOR_CORES if dtype in HALF else ['staged'])


@pytest.mark.parametrize(
    ('number', 'spatial', 'kernel_size'),
    [pytest.param(NAN, (7, 9), 6, marks=pytest.mark.long), (INFINITY, (8, 7), 7)],
)
@pytest.mark.parametrize('place', not_finite.PLACES)
def test_what_is_not_finite_in_sums_of_tf32(worker, monkeypatch, number, spatial, kernel_size, place):
    """Infinity has no second part, and products with it are NaN until they are repeated."""
    kernels = Kernels(worker, allow_tf32=True)
    check_not_finite(kernels, monkeypatch, number, place, spatial, kernel_size, 1, torch.float32)
    assert kernels.family == 'matrix'


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
def test_offsets_beyond_32_bits(worker, dtype):
    """Rows 2**32 bytes apart give the same as rows in a row; only the scalar kernels reach them."""
    query, key, value, grad = torch.randn(4, 1, 6, 5, 2, 8).to(dtype).unbind()
    settings = (None, (3, 2), (2, 1), 1.0)
    near, far = Kernels(worker, scalar=True), Kernels(worker, far=True)
    output, logsumexp = near.forward(query, key, value, *settings)
    results = far.forward(query, key, value, *settings)
    assert torch.equal(results[0], output) and torch.equal(results[1], logsumexp)
    inputs = (grad, query, key, value, output, None, logsumexp, *settings[1:])
    for a, b in zip(near.backward(*inputs), far.backward(*inputs), strict=True):
        assert torch.equal(a, b)


def test_nothing_to_do(worker):
    query = torch.randn(0, 5, 5, 2, 8)
    settings = ((3, 3), (1, 1), 1.0)
    output, logsumexp = Kernels(worker).forward(query, query, query, None, *settings)
    assert output.shape == query.shape
    Kernels(worker).backward(query, query, query, query, output, None, logsumexp, *settings)


def test_faults_are_reported(worker):
    """A worker that a fault has ended tells why, and another one takes its place."""
    query = torch.randn(1, 1, 8, 1, 16)
    kernels = Kernels(worker)
    call = partial(kernels.forward, query, query, query, None, (1, 3), (1, 1))
    wanted = call(1.0)
    with pytest.raises(AssertionError, match='heap-buffer-overflow'):
        kernels.forward(query, query[:, :, :4], query, None, (1, 3), (1, 1), 1.0)
    assert all(torch.equal(a, b) for a, b in zip(call(1.0), wanted, strict=True))
