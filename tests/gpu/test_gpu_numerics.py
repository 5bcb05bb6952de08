"""What the CUDA kernels compute: random problems, the published models' windows, corner cases."""

import random

import pytest
import torch
from attention import DTYPES, Problem, attend, gradients, random_problem
from golden import OPERATOR_CASES, drawn, expected, relative_error
from not_finite import PLACES, patterns
from on_gpu import assert_equal, check, check_tensors, draw, run

from natten_ops import na2d
from natten_ops.functional import packed_neighborhood_attention

pytestmark = pytest.mark.gpu
HALF = (torch.bfloat16, torch.float16)
FUSED = ('fused',) * 3 + ('contiguous',)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('seed', range(8))
def test_random_problems(seed, dtype):
    source = random.Random(seed)
    for _ in range(25):
        check(random_problem(source, dtype))


# NAT, DiNAT and DiNAT_s for classification, detection and segmentation: kernel 7 with these dilations; the
# isotropic models' kernel is 11.
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ('kernel_size', 'dilation'),
    [*((7, d) for d in (1, 2, 3, 4, 5, 7, 8, 10, 14, 16, 20, 28)), (11, 1), (11, 2)],
)
def test_windows_of_published_models(kernel_size, dilation, dtype):
    least = kernel_size * dilation
    for spatial, heads in (((least, least), 2), ((least + 3, least + 29), 1)):
        rpb = torch.float32
        window = (kernel_size,) * 2, (dilation,) * 2
        check(Problem(1, spatial, heads, 32, *window, dtype, rpb, FUSED))


@pytest.fixture
def tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, 'fp32_precision', 'tf32')


@pytest.mark.parametrize(
    ('spatial', 'kernel_size', 'dilation', 'head_dim'),
    [
        ((50, 76), (7, 7), (1, 1), 32),
        ((25, 38), (7, 7), (3, 3), 32),
        ((63, 49), (7, 7), (7, 7), 24),
        ((27, 41), (13, 13), (2, 1), 16),
        ((31, 33), (4, 9), (1, 2), 8),
        ((3000,), (7,), (5,), 32),
        ((25, 38), (5, 5), (1, 1), 32),  # stays exact, as the next one
        ((25, 38), (7, 7), (1, 1), 64),
    ],
)
def test_float32_as_sums_of_tf32(tf32, spatial, kernel_size, dilation, head_dim):
    problem = Problem(2, spatial, 2, head_dim, kernel_size, dilation, torch.float32, torch.float32, FUSED)
    check(problem)
    drawn = draw(problem)
    results = run(problem, *drawn)
    assert_equal(run(problem, *drawn), results)
    torch.backends.cuda.matmul.fp32_precision = 'ieee'
    exact = run(problem, *drawn)
    stays_exact = kernel_size == (5, 5) or head_dim > 32
    assert torch.equal(results[0], exact[0]) == stays_exact


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize('kernel_size', range(1, 15))
def test_kernel_sizes(kernel_size, dtype):
    rows = max(2, kernel_size - 1)  # axes with kernel sizes of their own, one odd and one even
    for window, dilation in (((kernel_size,) * 2, (1, 1)), ((rows, kernel_size), (2, 1))):
        spatial = tuple(k * d + extra for k, d, extra in zip(window, dilation, (6, 21), strict=True))
        check(Problem(2, spatial, 3, 32, window, dilation, dtype, dtype, FUSED))
        check(Problem(1, (3 * kernel_size + 5,), 2, 32, (kernel_size,), (3,), dtype, None))


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('head_dim', [1, 3, 8, 16, 24, 30, 40, 64, 72, 96, 128, 136, 200, 256])
def test_head_dims(head_dim, dtype):
    check(Problem(1, (12, 35), 2, head_dim, (7, 5), (1, 2), dtype, dtype, FUSED))


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32], ids=str)
def test_larger_head_dims_are_computed_by_the_reference(dtype):
    check(Problem(1, (9, 10), 1, 264, (3, 3), (1, 2), dtype, dtype))


@pytest.mark.parametrize('layout', ['contiguous', 'fused', 'transposed', 'sliced', 'expanded'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_layouts(layout, dtype):
    for mixed in (
        (layout,) * 4,
        ('fused', layout, 'fused', layout),
        (layout, 'fused', 'fused', 'expanded'),
    ):
        check(Problem(2, (15, 40), 2, 32, (7, 7), (1, 2), dtype, torch.float32, mixed))


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ('batch', 'spatial', 'heads'),
    [(4, (50, 76), 8), (1, (200, 304), 2), (1, (1, 40000), 3), (700, (7, 7), 2), (1, (8, 9), 700)],
)
def test_many_tokens(batch, spatial, heads, dtype):
    kernel_size = (1, 7) if spatial[0] == 1 else (7, 7)
    check(Problem(batch, spatial, heads, 32, kernel_size, (1, 1), dtype, torch.float32, FUSED))


@pytest.mark.parametrize('case', OPERATOR_CASES, ids=lambda case: case['name'])
def test_golden(case):
    """Vectors that the released NAT and DiNAT code produced."""
    shape = (case['batch'], *case['spatial'], case['heads'], case['head_dim'])
    inputs = [drawn(case, name, shape).cuda() for name in ('query', 'key', 'value')]
    if case['rpb']:
        bias = (case['heads'], *(2 * k - 1 for k in case['kernel_size']))
        inputs.append(drawn(case, 'rpb', bias, 0.5).cuda())
    inputs = [t.requires_grad_() for t in inputs]
    grad = drawn(case, 'grad', shape).cuda()
    results = gradients(attend, inputs, grad, case['kernel_size'], case['dilation'])
    wanted = expected(case)
    for name, result in zip(
        ('output', 'grad_query', 'grad_key', 'grad_value', 'grad_rpb'), results, strict=False
    ):
        assert relative_error(result.cpu(), wanted[name]) <= 1e-5, name


@pytest.mark.parametrize('rpb', [True, False])
def test_gradcheck(rpb):
    options = dict(dtype=torch.float64, device='cuda', requires_grad=True)
    tensors = [torch.randn(1, 5, 6, 2, 3, **options) for _ in range(3)]
    tensors += [torch.randn(2, 5, 3, **options)] if rpb else []
    function = lambda *t: na2d(*t[:3], (3, 2), dilation=(1, 2), rpb=t[3] if rpb else None)  # noqa: E731
    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('number', [float('nan'), float('inf')])
@pytest.mark.parametrize('dtype', [torch.float32, *HALF], ids=str)
def test_what_is_not_finite_stays_in_its_windows(dtype, number, place):
    for name, actual, wanted in patterns(number, place, (16, 20), 7, 2, 'cuda', dtype):
        assert torch.equal(actual, wanted), name


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('number', [float('nan'), float('inf')])
def test_what_is_not_finite_stays_in_its_windows_with_tf32(tf32, number, place):
    for name, actual, wanted in patterns(number, place, (16, 20), 7, 2, 'cuda', torch.float32):
        assert torch.equal(actual, wanted), name


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_empty_batch(dtype):
    query = torch.randn(0, 9, 9, 2, 32, device='cuda', dtype=dtype, requires_grad=True)
    rpb = torch.randn(2, 5, 5, device='cuda', dtype=dtype, requires_grad=True)
    output = na2d(query, query, query, 3, rpb=rpb)
    output.sum().backward()
    assert output.shape == query.shape and rpb.grad.shape == rpb.shape
    assert not rpb.grad.count_nonzero()


@pytest.mark.parametrize('dtype', [*HALF, torch.float32], ids=str)
def test_packed(dtype):
    """One fused projection is its three slices, bit for bit, and its gradient is one tensor."""
    qkv = torch.randn(2, 21, 30, 3, 4, 32, device='cuda', dtype=dtype, requires_grad=True)
    rpb = torch.randn(4, 13, 13, device='cuda', dtype=dtype, requires_grad=True)
    grad = torch.randn(2, 21, 30, 4, 32, device='cuda', dtype=dtype)
    results = []
    for packed in (True, False):
        if packed:
            output = packed_neighborhood_attention(qkv, (7, 7), (3, 2), 0.2, rpb, 0.0)
        else:
            output = na2d(*qkv.unbind(-3), 7, dilation=(3, 2), scale=0.2, rpb=rpb)
        results.append([output, *torch.autograd.grad(output, (qkv, rpb), grad)])
    assert_equal(*results)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('spatial', [(61, 83), (9, 9)])
def test_repeats_are_bit_identical(spatial, dtype):
    problem = Problem(4, spatial, 3, 32, (7, 7), (1, 1), dtype, dtype, FUSED)
    inputs, grad = draw(problem)
    first = run(problem, inputs, grad)
    for _ in range(5):
        assert_equal(run(problem, inputs, grad), first)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32], ids=str)
def test_offsets_beyond_32_bits(dtype):
    """Rows that lie 2**30 numbers apart; those of kernels for small, square windows must not."""
    needed = 3 * 2**30 * dtype.itemsize
    if torch.cuda.mem_get_info()[0] < needed + 2**30:
        pytest.skip(f'{needed / 2**30:.0f} GiB of memory are not to be had')
    problem = Problem(1, (3, 5), 2, 32, (3, 2), (1, 1), dtype, None)
    inputs, grad = draw(problem)
    near = [*inputs, grad]
    rows = torch.empty(3, 2**30, dtype=dtype, device='cuda')
    far = rows[:, : 4 * 5 * 2 * 32].unflatten(1, (4, 5, 2, 32)).unbind(1)
    far = [t.unsqueeze(0) for t in far]
    for a, b in zip(far, near, strict=True):
        a.copy_(b.detach())
        assert a.stride(1) == 2**30
    for *inputs, grad in (near, far):
        check_tensors(problem, [t.detach().requires_grad_() for t in inputs], grad)
