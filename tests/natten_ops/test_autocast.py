"""Autocast: the dtypes that scaled_dot_product_attention gives, in every path and for direct callers."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from natten_ops import NeighborhoodAttention2D, na2d

HALF = (torch.bfloat16, torch.float16)

# Compiled, and computed by the reference.
PATHS = {'compiled': {}, 'reference': dict(stride=2)}


def tensors():
    return torch.randn(3, 1, 6, 7, 2, 4, generator=torch.Generator().manual_seed(0)).unbind()


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize(
    'dtypes',
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float16),
        (torch.float16, torch.float16, torch.float16),
    ],
)
def test_casts_like_scaled_dot_product_attention(dtype, path, dtypes):
    inputs = [t.to(d) for t, d in zip(tensors(), dtypes, strict=True)]
    rpb = torch.randn(2, 5, 5)
    with torch.autocast('cpu', dtype):
        actual = na2d(*inputs, 3, rpb=rpb, **PATHS[path])
        alike = torch.nn.functional.scaled_dot_product_attention(*(t.flatten(1, 2) for t in inputs))
    wanted = na2d(*(t.to(dtype) for t in inputs), 3, rpb=rpb, **PATHS[path])
    assert actual.dtype == alike.dtype == dtype
    assert torch.equal(actual, wanted)


@pytest.mark.parametrize('path', PATHS)
def test_float64_is_left_alone(path):
    inputs = [t.double() for t in tensors()]
    with torch.autocast('cpu', torch.bfloat16):
        output = na2d(*inputs, 3, **PATHS[path])
    assert torch.equal(output, na2d(*inputs, 3, **PATHS[path]))
    with (
        torch.autocast('cpu', torch.bfloat16),
        pytest.raises(TypeError, match='key must have the dtype of query'),
    ):
        na2d(inputs[0], inputs[1].float(), inputs[2], 3)


@pytest.mark.parametrize('path', PATHS)
def test_bias_in_float32_is_not_rounded(path):
    """A bias that half precision would round away still tells keys apart."""
    inputs = [torch.zeros(1, 6, 6, 1, 4), torch.zeros(1, 6, 6, 1, 4), torch.randn(1, 6, 6, 1, 4)]
    rpb = 256 + torch.rand(1, 5, 5)
    with torch.autocast('cpu', torch.bfloat16):
        actual = na2d(*inputs, 3, rpb=rpb, **PATHS[path])
    wanted = na2d(*inputs, 3, rpb=rpb, **PATHS[path])
    rounded = na2d(*inputs, 3, rpb=rpb.bfloat16().float(), **PATHS[path])
    assert torch.allclose(actual.float(), wanted, atol=2e-2)
    assert not torch.allclose(rounded, wanted, atol=2e-2)


def test_bias_in_half_precision_follows_query():
    query, key, value = tensors()
    rpb = torch.randn(2, 5, 5, dtype=torch.float16)
    with torch.autocast('cpu', torch.bfloat16):
        assert na2d(query, key, value, 3, rpb=rpb).dtype == torch.bfloat16


@pytest.mark.parametrize('dtype', HALF)
def test_rule_of_the_operator(dtype):
    """What direct callers of the operator get, by its shape rule: no kernel runs."""
    with FakeTensorMode(), torch.autocast('cpu', dtype):
        query = torch.empty(1, 6, 6, 2, 4)
        settings = ((3, 3), (1, 1), 1.0)
        output, logsumexp = torch.ops.natten_ops.na_forward(query, query.half(), query, None, *settings)
        assert output.dtype == dtype and logsumexp.dtype == torch.float32
        wide = query.double()
        output, logsumexp = torch.ops.natten_ops.na_forward(wide, wide, wide, None, *settings)
        assert output.dtype == logsumexp.dtype == torch.float64


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('inside', [True, False])
def test_compile(path, inside):
    """Autocast inside of what is compiled, and around it."""

    def function(query, key, value, rpb):
        with torch.autocast('cpu', torch.bfloat16, enabled=inside):
            return na2d(query, key, value, 3, rpb=rpb, **PATHS[path])

    def around(query, key, value, rpb):
        return na2d(query, key, value, 3, rpb=rpb, **PATHS[path])

    torch._dynamo.reset()
    compiled = torch.compile(function if inside else around, fullgraph=True, backend='aot_eager')
    inputs = [t.requires_grad_() for t in (*tensors(), torch.randn(2, 5, 5))]
    results = []
    for f in (compiled, around):
        with torch.autocast('cpu', torch.bfloat16):
            output = f(*inputs)
        results.append([output, *torch.autograd.grad(output.float().square().sum(), inputs)])
    for actual, wanted in zip(*results, strict=True):
        assert actual.dtype == wanted.dtype
        # torch.compile traces the reference's backward under autocast, in half precision.
        tolerance = 1e-5 if path == 'compiled' or actual is results[0][0] else 3e-2
        assert (actual - wanted).abs().max() <= tolerance * wanted.abs().max()
    assert results[0][0].dtype == torch.bfloat16 and results[0][1].dtype == torch.float32


@pytest.mark.parametrize('strict', [False, True])
def test_export(strict):
    class Attention(torch.nn.Module):
        def forward(self, query, key, value):
            with torch.autocast('cpu', torch.bfloat16):
                return na2d(query, key, value, 3)

    program = torch.export.export(Attention(), tensors(), strict=strict)
    assert torch.equal(program.module()(*tensors()), Attention()(*tensors()))


@pytest.mark.parametrize('dtype', HALF)
def test_operator_is_the_function(dtype):
    query, key, value = tensors()
    rpb = torch.randn(2, 5, 5)
    with torch.autocast('cpu', dtype):
        output, _ = torch.ops.natten_ops.na_forward(query, key.bfloat16(), value, rpb, (3, 3), (1, 1), 0.5)
        assert torch.equal(output, na2d(query, key.bfloat16(), value, 3, rpb=rpb))


def test_rule_is_there_for_cuda():
    name = 'natten_ops::na_forward'
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, 'AutocastCUDA')


def test_module_trains():
    attention = NeighborhoodAttention2D(16, 2, 3)
    with torch.autocast('cpu', torch.bfloat16):
        output = attention(torch.randn(1, 6, 6, 16))
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in attention.parameters())
    assert attention.rpb.grad.dtype == torch.float32


def test_module_in_half_precision():
    attention = NeighborhoodAttention2D(16, 2, 3).bfloat16()
    output = attention(torch.randn(1, 6, 6, 16, dtype=torch.bfloat16))
    output.float().square().mean().backward()
    assert output.dtype == attention.rpb.grad.dtype == torch.bfloat16


def test_reference_under_autocast_computes_in_float32():
    attention = NeighborhoodAttention2D(16, 2, 3, attn_drop=1e-9)
    x = torch.randn(1, 6, 6, 16)
    with torch.autocast('cpu', torch.bfloat16):
        through_reference = attention(x)
        compiled = attention.eval()(x)
    assert through_reference.dtype == torch.bfloat16
    assert (through_reference - compiled).abs().max() <= 2e-2 * compiled.abs().max()
