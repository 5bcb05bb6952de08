"""The operator: golden vectors, the float64 reference, autograd, compilation, bad input."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden import OPERATOR_CASES, drawn, expected, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

import natten_ops
from natten_ops import NeighborhoodAttention1D, NeighborhoodAttention2D, na1d, na2d, operator
from natten_ops.reference import neighborhood_attention_reference, window_indices

NAMES = ('query', 'key', 'value', 'rpb')


def attend(query, key, value, kernel_size, dilation, rpb=None, scale=None):
    function = na1d if query.dim() == 4 else na2d
    return function(query, key, value, kernel_size, dilation=dilation, rpb=rpb, scale=scale)


def reference(query, key, value, kernel_size, dilation, rpb=None):
    scale = query.shape[-1] ** -0.5
    return neighborhood_attention_reference(query, key, value, kernel_size, dilation, rpb, scale)[0]


def golden_inputs(case):
    shape = (case['batch'], *case['spatial'], case['heads'], case['head_dim'])
    inputs = [drawn(case, name, shape) for name in NAMES[:3]]
    if case['rpb']:
        rpb_shape = (case['heads'], *(2 * k - 1 for k in case['kernel_size']))
        inputs.append(drawn(case, 'rpb', rpb_shape, 0.5))
    return [tensor.requires_grad_() for tensor in inputs], drawn(case, 'grad', shape)


def gradients(function, inputs, grad, kernel_size, dilation):
    query, key, value, *rpb = inputs
    output = function(query, key, value, kernel_size, dilation, rpb[0] if rpb else None)
    return [output, *torch.autograd.grad(output, inputs, grad)]


def test_library_is_loaded():
    assert operator.HAS_LIBRARY


@pytest.mark.parametrize('case', OPERATOR_CASES, ids=lambda case: case['name'])
@pytest.mark.parametrize('function', [attend, reference])
def test_golden(case, function, record_property):
    inputs, grad = golden_inputs(case)
    results = gradients(function, inputs, grad, case['kernel_size'], case['dilation'])
    wanted = expected(case)
    names = ['output', *(f'grad_{name}' for name in NAMES[: len(inputs)])]
    assert set(names) == set(wanted)
    for name, result in zip(names, results, strict=True):
        error = relative_error(result, wanted[name])
        record_property(name, error)
        assert error <= 1e-5, (name, error)


@st.composite
def problems(draw):
    """Shapes that fit: (rank, batch, spatial, heads, head_dim, kernel_size, dilation, rpb, layout)."""
    rank = draw(st.integers(1, 2))
    kernel_size = [draw(st.integers(1, 8)) for _ in range(rank)]
    dilation = [draw(st.integers(1, 3)) for _ in range(rank)]
    spatial = [k * d + draw(st.integers(0, 7)) for k, d in zip(kernel_size, dilation, strict=True)]
    head_dim = draw(st.sampled_from([1, 3, 8, 32, 40]))
    layout = draw(st.sampled_from(['contiguous', 'fused', 'transposed', 'expanded']))
    return (
        draw(st.integers(1, 2)),
        spatial,
        draw(st.integers(1, 3)),
        head_dim,
        kernel_size,
        dilation,
        draw(st.booleans()),
        layout,
    )


def laid_out(shape, layout, generator):
    """Query, key and value of one shape as views with the strides of ``layout``."""
    batch, *spatial, heads, head_dim = shape
    if layout == 'fused':
        base = torch.randn(batch, *spatial, 3, heads, head_dim, generator=generator, dtype=torch.float64)
        return list(base.unbind(-3))
    if layout == 'transposed':  # channels first
        base = torch.randn(3, batch, heads, head_dim, *spatial, generator=generator, dtype=torch.float64)
        return [t.movedim((1, 2), (-2, -1)) for t in base]
    if layout == 'expanded':
        base = torch.randn(3, 1, *spatial, 1, head_dim, generator=generator, dtype=torch.float64)
        return [t.expand(shape) for t in base]
    return list(torch.randn(3, *shape, generator=generator, dtype=torch.float64))


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from([torch.float64, torch.float32]))
def test_against_float64_reference(problem, dtype):
    batch, spatial, heads, head_dim, kernel_size, dilation, with_rpb, layout = problem
    generator = torch.Generator().manual_seed(0)
    shape = (batch, *spatial, heads, head_dim)
    wide = laid_out(shape, layout, generator)
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    if with_rpb:
        sizes = [2 * k - 1 for k in kernel_size]
        wide.append(torch.randn(heads, *sizes, generator=generator, dtype=torch.float64))
    # .to() keeps the strides of dense layouts and of the copies the values.
    narrow = [t if dtype == torch.float64 else t.to(dtype) for t in wide]
    narrow = [t.detach().requires_grad_() for t in narrow]
    exact = [t.detach().double().requires_grad_() for t in narrow]
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    actual = gradients(attend, narrow, grad.to(dtype), kernel_size, dilation)
    wanted = gradients(reference, exact, grad.to(dtype).double(), kernel_size, dilation)
    assert actual[0].is_contiguous()
    for a, w in zip(actual, wanted, strict=True):
        assert a.dtype == dtype
        assert float((a - w).detach().abs().max()) <= tolerance * max(1.0, float(w.abs().max()))


def test_window_by_the_text():
    """The reference's windows against the definition, token by token."""
    for length, k, d in [(7, 7, 1), (20, 4, 3), (11, 3, 2), (9, 1, 4), (29, 7, 3)]:
        indices, bias = window_indices(length, k, d)
        for i in range(length):
            r, p = i % d, i // d
            m = math.ceil((length - r) / d)
            s = min(max(p - k // 2, 0), m - k)
            assert indices[i].tolist() == [(s + t) * d + r for t in range(k)]
            assert bias[i].tolist() == [s + t - p + k - 1 for t in range(k)]


def test_whole_window_is_self_attention():
    query, key, value = torch.randn(3, 2, 5, 4, 2, 8)
    flat = [t.flatten(1, 2).transpose(1, 2) for t in (query, key, value)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*flat).transpose(1, 2)
    assert torch.allclose(na2d(query, key, value, (5, 4)).flatten(1, 2), wanted, atol=1e-6)


def small_inputs(rpb=True, dtype=torch.float64):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 5, 6, 2, 3, dtype=dtype).unbind()
    inputs = [query, key, value, torch.randn(2, 5, 3, dtype=dtype)] if rpb else [query, key, value]
    return [t.clone().requires_grad_() for t in inputs]


@pytest.mark.parametrize('rpb', [True, False])
def test_gradcheck(rpb):
    def function(query, key, value, bias=None):
        return attend(query, key, value, (3, 2), (1, 2), bias, scale=0.7)

    assert torch.autograd.gradcheck(function, small_inputs(rpb))
    assert torch.autograd.gradgradcheck(function, small_inputs(rpb))


def test_third_derivative_is_refused():
    query, key, value, _ = small_inputs()
    output = na2d(query, key, value, 3)
    (first,) = torch.autograd.grad(output.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match='first and second derivatives only'):
        torch.autograd.grad(first.square().sum(), query, create_graph=True)


@pytest.mark.parametrize('rpb', [True, False])
def test_opcheck(rpb):
    inputs = small_inputs(rpb, torch.float32)
    bias = inputs[3] if rpb else None
    arguments = (*inputs[:3], bias, (3, 2), (1, 2), 0.7)
    torch.library.opcheck(torch.ops.natten_ops.na_forward, arguments)
    with torch.no_grad():
        output, logsumexp = torch.ops.natten_ops.na_forward(*arguments)
    grad = torch.randn_like(output)
    torch.library.opcheck(
        torch.ops.natten_ops.na_backward,
        (grad, *(t.detach() for t in inputs[:3]), None if bias is None else bias.detach())
        + (output, logsumexp, (3, 2), (1, 2), 0.7),
    )


@pytest.mark.parametrize('dynamic', [False, True])
def test_compile(dynamic):
    attention = NeighborhoodAttention2D(16, 2, 3, 2)
    compiled = torch.compile(attention, fullgraph=True, dynamic=dynamic)
    for size in [(9, 8), (12, 7), (5, 8)]:  # the last is padded
        x = torch.randn(2, *size, 16, requires_grad=True)
        wanted = attention(x)
        grads = torch.autograd.grad(wanted.square().sum(), [x, *attention.parameters()])
        actual = compiled(x)
        assert torch.allclose(actual, wanted, atol=1e-5)
        actual_grads = torch.autograd.grad(actual.square().sum(), [x, *attention.parameters()])
        for a, w in zip(actual_grads, grads, strict=True):
            assert torch.allclose(a, w, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    inputs = [t.to(dtype) for t in small_inputs()]
    inputs[3] = inputs[3].float()
    output = attend(*inputs[:3], (3, 2), 1, inputs[3])
    wanted = attend(*(t.double() for t in inputs[:3]), (3, 2), 1, inputs[3].double())
    assert output.dtype == dtype
    assert torch.allclose(output.double(), wanted, atol=0, rtol=2 * torch.finfo(dtype).eps)


def test_autocast_trains():
    attention = NeighborhoodAttention2D(16, 2, 3)
    with torch.autocast('cpu', torch.bfloat16):
        output = attention(torch.randn(1, 6, 6, 16))
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in attention.parameters())


def test_threads_do_not_change_results():
    torch.manual_seed(0)
    inputs = [*torch.randn(3, 2, 33, 30, 3, 32).unbind(), torch.randn(3, 13, 13)]
    inputs = [t.requires_grad_() for t in inputs]
    grad = torch.randn(2, 33, 30, 3, 32)
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


def test_empty_batch():
    query = torch.randn(0, 5, 5, 2, 8, requires_grad=True)
    rpb = torch.randn(2, 5, 5, requires_grad=True)
    output = na2d(query, query, query, 3, rpb=rpb)
    assert output.shape == query.shape
    output.sum().backward()
    assert rpb.grad.abs().sum() == 0


def test_module_pads_small_inputs_as_published():
    attention = NeighborhoodAttention2D(8, 2, 5, 2).eval()
    x = torch.randn(1, 7, 12, 8)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 3))
    assert torch.allclose(attention(x), attention(padded)[:, :7], atol=1e-6)
    assert sorted(dict(attention.named_parameters())) == [
        'proj.bias', 'proj.weight', 'qkv.bias', 'qkv.weight', 'rpb',
    ]  # fmt: skip


def test_reference_under_autocast_computes_in_float32():
    attention = NeighborhoodAttention2D(16, 2, 3, attn_drop=1e-9)
    x = torch.randn(1, 6, 6, 16)
    with torch.autocast('cpu', torch.bfloat16):
        through_reference = attention(x)
        compiled = attention.eval()(x)
    assert through_reference.dtype == torch.bfloat16
    assert torch.allclose(through_reference, compiled, atol=0, rtol=2e-2)


def test_module_1d_and_dropout():
    attention = NeighborhoodAttention1D(8, 2, 5, 2, attn_drop=0.5)
    x = torch.randn(2, 4, 8)
    assert attention(x).shape == x.shape
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_config_builds_modules():
    from mmengine.registry import MODELS

    config = dict(type='NeighborhoodAttention2D', dim=8, num_heads=2, kernel_size=3)
    module = MODELS.build(config)
    assert isinstance(module, NeighborhoodAttention2D)
    config = dict(type='NeighborhoodAttention1D', dim=8, num_heads=2, kernel_size=3, rel_pos_bias=False)
    module = MODELS.build(config)
    assert isinstance(module, NeighborhoodAttention1D) and module.rpb is None


def _good():
    return dict(zip(NAMES[:3], torch.randn(3, 1, 8, 9, 2, 4), strict=True)) | dict(kernel_size=3)


@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        (dict(key=torch.randn(1, 8, 8, 2, 4)), ValueError, 'key must have the shape of query'),
        (dict(query=torch.randn(8, 9, 2, 4)), ValueError, r'query must be \(B, H, W, heads, head_dim\)'),
        (dict(query=[1]), TypeError, 'query must be a tensor'),
        (dict(value=torch.randn(1, 8, 9, 2, 4).double()), TypeError, 'value must have the dtype'),
        (dict(query=torch.ones(1, 8, 9, 2, 4).int()), TypeError, 'query must be float32'),
        (dict(key=torch.randn(1, 8, 9, 2, 4, device='meta')), ValueError, 'key must be on the device'),
        (dict(kernel_size=0), ValueError, 'kernel_size must be positive'),
        (dict(kernel_size=2.5), TypeError, 'kernel_size must be an int'),
        (dict(kernel_size=(3, 3, 3)), ValueError, 'kernel_size must be an int or a tuple of 2'),
        (dict(kernel_size=9), ValueError, 'axis 0 has 8 tokens, kernel_size 9 and dilation 1 need 9'),
        (dict(dilation=(1, 4)), ValueError, 'axis 1 has 9 tokens'),
        (dict(dilation=-1), ValueError, 'dilation must be positive'),
        (dict(rpb=torch.randn(2, 5, 4)), ValueError, r'= \(2, 5, 5\)'),
        (dict(rpb=torch.randn(2, 5, 5).double()), TypeError, 'rpb must have the dtype'),
        (dict(rpb=torch.randn(2, 5, 5, device='meta')), ValueError, 'rpb must be on the device'),
        (dict(rpb=3), TypeError, 'rpb must be a tensor'),
    ],
)  # fmt: skip
def test_bad_input(change, error, words):
    with pytest.raises(error, match=words):
        na2d(**(_good() | change))


def test_bad_module():
    with pytest.raises(ValueError, match='positive multiple of num_heads'):
        NeighborhoodAttention2D(10, 4, 3)
    with pytest.raises(ValueError, match='4-dimensional input'):
        NeighborhoodAttention2D(8, 2, 3)(torch.randn(4, 4, 8))


@pytest.mark.parametrize(
    ('kernel_size', 'dilation', 'key', 'rpb'),
    [
        ((9, 3), (1, 1), None, None),
        ((0, 3), (1, 1), None, None),
        ((3, 3), (2**62, 2**62), None, None),
        ((3,), (1,), None, None),
        ((3, 3), (1, 1), torch.randn(1, 8, 8, 2, 4), None),
        ((3, 3), (1, 1), torch.randn(1, 8, 9, 2, 4).double(), None),
        ((3, 3), (1, 1), None, torch.randn(2, 5, 4)),
        ((3, 3), (1, 1), None, torch.randn(2, 5, 5).double()),
    ],
)
def test_direct_callers_of_the_operator_are_checked(kernel_size, dilation, key, rpb):
    query = torch.randn(1, 8, 9, 2, 4)
    key = query if key is None else key
    with pytest.raises(RuntimeError, match='natten_ops'):
        torch.ops.natten_ops.na_forward(query, key, query, rpb, kernel_size, dilation, 1.0)


def test_devices_without_kernel_use_the_reference_with_one_warning():
    on_gpu = SimpleNamespace(device=torch.device('cuda'))
    operator._warn_of_reference.cache_clear()
    with pytest.warns(UserWarning, match='no kernel for cuda tensors') as warnings:
        assert [operator.covers(on_gpu) for _ in range(2)] == [False, False]
    assert len(warnings) == 1


def test_without_library_the_reference_is_used_with_one_warning(tmp_path):
    source = Path(natten_ops.__file__).parent
    shutil.copytree(source, tmp_path / 'natten_ops', ignore=shutil.ignore_patterns('*.so', 'csrc'))
    program = (
        'import torch, natten_ops, natten_ops.operator\n'
        'assert not natten_ops.operator.HAS_LIBRARY\n'
        'q = torch.randn(1, 5, 5, 1, 4, requires_grad=True)\n'
        'for _ in range(2): natten_ops.na2d(q, q, q, 3).sum().backward()\n'
        'print(natten_ops.__file__)\n'
    )
    environment = os.environ | dict(PYTHONPATH=str(tmp_path))
    run = subprocess.run(
        [sys.executable, '-c', program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(tmp_path))
    assert run.stderr.count('falls back to its PyTorch reference') == 1
