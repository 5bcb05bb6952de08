"""The reference against loops over numbers, for every setting, and what the settings are equal to."""

import math

import brute_force
import pytest
import torch
from attention import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from natten_ops import na1d, na2d, na3d
from natten_ops.reference import neighborhood_attention_reference
from natten_ops.windows import PADDINGS, axis_windows, valid_range

FUNCTIONS = {1: na1d, 2: na2d, 3: na3d}


def test_window_by_the_text():
    """The windows against the definition, token by token."""
    for length, k, d in [(7, 7, 1), (20, 4, 3), (11, 3, 2), (9, 1, 4), (29, 7, 3)]:
        windows = axis_windows(length, k, dilation=d)
        assert not windows.has_outside and windows.absent is None
        for i in range(length):
            r, p = i % d, i // d
            m = math.ceil((length - r) / d)
            s = min(max(p - k // 2, 0), m - k)
            assert windows.keys[i].tolist() == [(s + t) * d + r for t in range(k)]
            assert windows.bias[i].tolist() == [s + t - p + k - 1 for t in range(k)]


@st.composite
def axes(draw, padding):
    """An axis that fits: (length, kernel_size, stride, dilation, is_causal)."""
    k = draw(st.integers(1, 5))
    d = draw(st.integers(1, 3))
    shortest = {'shifted': k * d, 'zeros': 1, 'valid': (k - 1) * d + 1}[padding]
    stride = 1 if padding == 'valid' else draw(st.integers(1, k))
    return shortest + draw(st.integers(0, 5)), k, stride, d, draw(st.booleans())


@st.composite
def problems(draw):
    padding = draw(st.sampled_from(PADDINGS))
    rank = draw(st.integers(1, 3))
    drawn = [draw(axes(padding)) for _ in range(rank)]
    # A loop in Python visits every number: keep them few.
    while math.prod(n * k for n, k, *_ in drawn) > 1500 and len(drawn) > 1:
        drawn.pop()
    return padding, list(zip(*drawn, strict=True)), draw(st.integers(1, 2)), draw(st.booleans())


@settings(max_examples=300, deadline=None)
@given(problems())
def test_against_the_definition(problem):
    padding, (spatial, kernel_size, stride, dilation, is_causal), heads, with_rpb = problem
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, *spatial, heads, 2, dtype=torch.float64, generator=generator)
    rpb = None
    if with_rpb:
        sizes = [2 * k - 1 for k in kernel_size]
        rpb = torch.randn(heads, *sizes, dtype=torch.float64, generator=generator)
    settings = (kernel_size, stride, dilation, is_causal, 0.6, rpb, padding)
    actual = FUNCTIONS[len(spatial)](query, key, value, *settings)
    wanted = brute_force.attention(query, key, value, *settings)
    assert actual.is_contiguous()
    torch.testing.assert_close(actual, wanted, atol=1e-12, rtol=0)


def test_bias_is_defined_for_every_window():
    """Every entry that a window uses exists, and a query is in its own window, at the middle entry."""
    for k in range(1, 8):
        for stride in range(1, k + 1):
            for is_causal in (False, True):
                for padding in PADDINGS if stride == 1 else PADDINGS[:2]:
                    for length in range(2 * k, 2 * k + 8):
                        windows = axis_windows(length, k, stride, 2, is_causal, padding)
                        first, count = 0, length
                        if padding == 'valid':
                            first, count = valid_range(length, k, 2, is_causal)
                        assert len(windows.keys) == count
                        assert windows.bias.min() >= 0 and windows.bias.max() <= 2 * k - 2
                        own = windows.keys == torch.arange(first, first + count)[:, None]
                        assert (own.sum(1) == 1).all() and (windows.bias[own] == k - 1).all()
                        if windows.absent is not None:
                            assert not windows.absent[own].any()
                        if is_causal:
                            used = windows.bias if windows.absent is None else windows.bias[~windows.absent]
                            assert used.max() <= k - 1


@pytest.mark.parametrize('stride', [1, 2, 5])
@pytest.mark.parametrize('rank', [1, 2, 3])
def test_whole_window_is_self_attention(rank, stride):
    spatial = (5, 6, 7)[:rank]
    query, key, value = torch.randn(3, 2, *spatial, 2, 8)
    flat = [t.flatten(1, rank).transpose(1, 2) for t in (query, key, value)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*flat).transpose(1, 2)
    actual = FUNCTIONS[rank](query, key, value, spatial, stride).flatten(1, rank)
    assert torch.allclose(actual, wanted, atol=1e-6)


def test_whole_causal_window_is_causal_attention():
    query, key, value = torch.randn(3, 2, 11, 2, 8)
    flat = [t.transpose(1, 2) for t in (query, key, value)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*flat, is_causal=True).transpose(1, 2)
    for stride in (1, 4):
        assert torch.allclose(na1d(query, key, value, 11, stride, is_causal=True), wanted, atol=1e-6)


def test_stride_of_the_kernel_size_is_blocked_attention():
    query, key, value = torch.randn(3, 2, 12, 2, 8)
    blocks = [t.unflatten(1, (4, 3)).flatten(0, 1).transpose(1, 2) for t in (query, key, value)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*blocks).transpose(1, 2)
    assert torch.allclose(na1d(query, key, value, 3, 3), wanted.reshape(query.shape), atol=1e-6)


def test_zeros_are_attention_on_a_padded_feature_map():
    query, key, value = torch.randn(3, 1, 6, 5, 2, 4, dtype=torch.float64)
    rpb = torch.randn(2, 9, 9, dtype=torch.float64)
    padded = [torch.nn.functional.pad(t, (0, 0, 0, 0, 4, 4, 4, 4)) for t in (query, key, value)]
    wanted = na2d(*padded, 5, dilation=2, rpb=rpb, padding='valid')
    torch.testing.assert_close(na2d(query, key, value, 5, dilation=2, rpb=rpb, padding='zeros'), wanted)


@pytest.mark.parametrize('kernel_size', [(3, 4), (1, 2)])
@pytest.mark.parametrize('dilation', [1, (2, 3)])
def test_valid_is_shifted_cropped(kernel_size, dilation):
    query, key, value = torch.randn(3, 2, 9, 14, 2, 4)
    rpb = torch.randn(2, *(2 * k - 1 for k in kernel_size))
    whole = na2d(query, key, value, kernel_size, dilation=dilation, rpb=rpb)
    actual = na2d(query, key, value, kernel_size, dilation=dilation, rpb=rpb, padding='valid')
    (k_h, k_w), (d_h, d_w) = kernel_size, (dilation, dilation) if dilation == 1 else dilation
    top, left = k_h // 2 * d_h, k_w // 2 * d_w
    height, width = 9 - (k_h - 1) * d_h, 14 - (k_w - 1) * d_w
    assert actual.is_contiguous()
    assert torch.equal(actual, whole[:, top : top + height, left : left + width])


def test_valid_of_one_window():
    """A feature map of exactly one window, which holds no ``kernel_size * dilation`` tokens."""
    query, key, value = torch.randn(3, 1, 7, 1, 4)
    output = na1d(query, key, value, 3, dilation=3, padding='valid')
    wanted = na1d(query[:, ::3], key[:, ::3], value[:, ::3], 3)[:, 1:2]
    assert output.shape == (1, 1, 1, 4)
    assert torch.allclose(output, wanted, atol=1e-6)


@pytest.mark.parametrize('padding', ['shifted', 'zeros'])
def test_absent_keys_do_not_touch_the_output(padding):
    """Whatever a causal window excludes, NaN too, has no part in output and gradients."""
    inputs = [*torch.randn(3, 1, 9, 2, 4, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)]
    grad = torch.randn(1, 9, 2, 4, dtype=torch.float64)
    grad[:, 6:] = 0

    def results(inputs):
        leaves = [t.clone().requires_grad_() for t in inputs]
        output = na1d(*leaves[:3], 3, 2, is_causal=True, rpb=leaves[3], padding=padding)
        return [output, *torch.autograd.grad(output, leaves, grad)]

    clean = results(inputs)
    spoilt_bias = [t.clone() for t in inputs]
    spoilt_bias[3][:, 3:] = float('nan')  # the entries of keys after the query
    assert all(torch.equal(a, b) for a, b in zip(clean, results(spoilt_bias), strict=True))
    spoilt_tokens = [t.clone() for t in inputs]
    for tensor in spoilt_tokens[:3]:
        tensor[:, 6:] = float('nan')
    # The spoilt query at 6 has the key at 5 in its window.
    for tokens, a, b in zip((6, 6, 5, 5), clean, results(spoilt_tokens), strict=False):
        assert torch.equal(a[:, :tokens], b[:, :tokens])


@pytest.mark.parametrize(
    'options',
    [
        dict(kernel_size=3, stride=2),
        dict(kernel_size=(4, 3), is_causal=(True, False), dilation=(1, 2)),
        dict(kernel_size=3, stride=(3, 2), is_causal=(False, True), padding='zeros', dilation=3),
        dict(kernel_size=(2, 3), is_causal=(True, False), padding='valid'),
    ],
)
def test_gradients_of_every_setting(options):
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(3, 1, 5, 6, 1, 2, dtype=torch.float64, generator=generator)
    sizes = options['kernel_size']
    sizes = (sizes, sizes) if isinstance(sizes, int) else sizes
    bias = torch.randn(1, *(2 * k - 1 for k in sizes), dtype=torch.float64, generator=generator)
    inputs = [t.clone().requires_grad_() for t in (*tensors, bias)]

    def function(query, key, value, rpb):
        return na2d(query, key, value, rpb=rpb, **options)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    query, key, value = torch.randn(3, 1, 6, 6, 2, 4, dtype=dtype)
    rpb = torch.randn(2, 5, 5)
    settings = ((3, 3), (1, 1))
    with torch.autocast('cpu', torch.bfloat16):  # without effect
        output, logsumexp = neighborhood_attention_reference(query, key, value, *settings, rpb, 0.5)
    wide = [t.float() for t in (query, key, value)]
    assert logsumexp.dtype == torch.float32
    assert torch.equal(output, reference(*wide, *settings, rpb, 0.5).to(dtype))


def test_dropout_drops_weights():
    query, key, value = torch.randn(3, 1, 30, 30, 1, 4)
    value = torch.ones_like(value)
    output, _ = neighborhood_attention_reference(query, key, value, (3, 3), (1, 1), None, 0.5, 0.25)
    assert not torch.allclose(output, value)
    assert float(output.mean()) == pytest.approx(1, abs=0.05)  # those left are scaled up
