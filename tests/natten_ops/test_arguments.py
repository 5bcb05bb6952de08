"""Bad input: one exception that names argument, expected, got and remedy, before anything is computed."""

import inspect

import pytest
import torch

from natten_ops import na1d, na2d, na3d

NAMES = ('query', 'key', 'value')
FUNCTIONS = {1: na1d, 2: na2d, 3: na3d}


def _good(rank=2):
    spatial = (8, 9, 7)[:rank]
    return dict(zip(NAMES, torch.randn(3, 1, *spatial, 2, 4), strict=True)) | dict(kernel_size=3)


def _each(rank=2, dtype=torch.float32, **options):
    """All three tensors of another kind."""
    return {name: tensor.to(dtype, **options) for name, tensor in _good(rank).items() if name in NAMES}


@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        (dict(key=torch.randn(1, 8, 8, 2, 4)), ValueError, 'key must have the shape of query'),
        (dict(value=torch.randn(2, 8, 9, 2, 4)), ValueError, r'\(1, 8, 9, 2, 4\), got \(2, 8, 9'),
        (dict(query=torch.randn(8, 9, 2, 4)), ValueError, r'query must be \(B, H, W, heads, head_dim\)'),
        (dict(query=[1]), TypeError, 'query must be a tensor'),
        (dict(key=None), TypeError, r'key must be a tensor \(B, H, W, heads, head_dim\), got NoneType'),
        (dict(value=torch.randn(1, 8, 9, 2, 4).double()), TypeError, 'value must have the dtype'),
        (dict(query=torch.ones(1, 8, 9, 2, 4).int()), TypeError, 'query must be float32'),
        (_each(dtype=torch.complex64), TypeError, 'query must be float32, .*got torch.complex64'),
        (dict(key=torch.randn(1, 8, 9, 2, 4).to_sparse()), TypeError, 'key must be a dense tensor'),
        (dict(key=torch.randn(1, 8, 9, 2, 4, device='meta')), ValueError, 'key must be on the device'),
        ({name: torch.randn(1, 0, 9, 2, 4) for name in NAMES}, ValueError, 'at least one token on every'),
        ({name: torch.randn(1, 8, 0, 2, 4) for name in NAMES}, ValueError, r'got shape \(1, 8, 0, 2, 4\)'),
        ({name: torch.randn(1, 8, 9, 0, 4) for name in NAMES}, ValueError, 'one head'),
        ({name: torch.randn(1, 8, 9, 2, 0) for name in NAMES}, ValueError, 'one channel'),
        (dict(kernel_size=0), ValueError, 'kernel_size must be positive'),
        (dict(kernel_size=2.5), TypeError, 'kernel_size must be an int'),
        (dict(kernel_size=True), TypeError, 'kernel_size must be an int'),
        (dict(kernel_size=None), TypeError, 'kernel_size must be an int'),
        (dict(kernel_size='33'), TypeError, 'kernel_size must be an int'),
        (dict(kernel_size=(3, 3, 3)), ValueError, 'kernel_size must be an int or a tuple of 2'),
        (dict(kernel_size=9), ValueError, 'axis 0 has 8 tokens, kernel_size 9 and dilation 1 need 9'),
        (dict(kernel_size=2**40, padding='zeros'), ValueError, 'kernel_size must be at most 2147483647'),
        (dict(stride=0), ValueError, 'stride must be positive, got 0; use 1 or more'),
        (dict(stride=(1, 4)), ValueError, 'axis 1 has stride 4 and kernel_size 3; use a smaller stride'),
        (dict(stride=1.0), TypeError, 'stride must be an int'),
        (dict(stride=(1,)), ValueError, 'stride must be an int or a tuple of 2 ints'),
        (dict(stride=2, padding='valid'), ValueError, "must be 1 with padding='valid'.*axis 0 has"),
        (dict(dilation=(1, 4)), ValueError, 'axis 1 has 9 tokens'),
        (dict(dilation=(1, 4), is_causal=True), ValueError, 'axis 1 has 9 tokens'),
        (dict(dilation=-1), ValueError, 'dilation must be positive'),
        (dict(dilation=2**62, padding='zeros'), ValueError, 'dilation must be at most 2147483647'),
        (dict(dilation=(4, 1), padding='valid'), ValueError, 'axis 0 has 8 tokens.* dilation 4 span 9'),
        (dict(is_causal=1), TypeError, 'is_causal must be a bool or a tuple of 2 bools, one per axis'),
        (dict(is_causal=(True, 0)), TypeError, 'is_causal must be a bool'),
        (dict(is_causal=None), TypeError, 'is_causal must be a bool'),
        (dict(is_causal=(True,)), ValueError, 'is_causal must be a bool or a tuple of 2 bools'),
        (dict(scale='1'), TypeError, 'scale must be a number or None, got str'),
        (dict(scale=True), TypeError, 'scale must be a number'),
        (dict(scale=torch.ones(())), TypeError, 'scale must be a number.*multiply query by it'),
        (dict(padding='same'), ValueError, "must be one of 'shifted', 'zeros', 'valid', got 'same'"),
        (dict(padding=None), TypeError, 'padding must be one of'),
        (dict(padding=0), TypeError, 'padding must be one of'),
        (dict(rpb=torch.randn(2, 5, 4)), ValueError, r'= \(2, 5, 5\)'),
        (dict(rpb=torch.randn(1, 5, 5)), ValueError, r'\(2, 5, 5\) for kernel_size \(3, 3\) and 2 heads'),
        (dict(rpb=torch.randn(2, 25)), ValueError, r'rpb must be \(heads, 2 \* kernel_size - 1'),
        (dict(rpb=torch.randn(2, 5, 5).double()), TypeError, 'rpb must have the dtype'),
        (dict(rpb=torch.randn(2, 5, 5).half()), TypeError, 'rpb must have the dtype'),
        (_each(dtype=torch.half) | dict(rpb=torch.ones(2, 5, 5).bfloat16()), TypeError, 'float32 beside'),
        (dict(rpb=torch.randn(2, 5, 5, device='meta')), ValueError, 'rpb must be on the device'),
        (dict(rpb=torch.randn(2, 5, 5).to_sparse()), TypeError, 'rpb must be a dense tensor'),
        (dict(rpb=3), TypeError, 'rpb must be a tensor or None, got int'),
    ],
)  # fmt: skip
def test_bad_input(change, error, words):
    with pytest.raises(error, match=words):
        na2d(**(_good() | change))


@pytest.mark.parametrize('rank', [1, 2, 3])
def test_rank_is_checked(rank):
    for other in {1, 2, 3} - {rank}:
        with pytest.raises(ValueError, match=r'query must be \(B, .*na1d, na2d and na3d take one,'):
            FUNCTIONS[rank](**_good(other))
    with pytest.raises(ValueError, match=f'a tuple of {rank} ints'):
        FUNCTIONS[rank](**(_good(rank) | dict(kernel_size=(3,) * (rank + 1))))
    with pytest.raises(ValueError, match='axis 0 has 8 tokens'):
        FUNCTIONS[rank](**(_good(rank) | dict(dilation=3)))


@pytest.mark.parametrize('rank', [1, 2, 3])
def test_signature(rank):
    parameters = inspect.signature(FUNCTIONS[rank]).parameters
    assert {name: p.default for name, p in parameters.items() if name not in NAMES} == dict(
        kernel_size=inspect.Parameter.empty, stride=1, dilation=1, is_causal=False, scale=None, rpb=None,
        padding='shifted',
    )  # fmt: skip
    assert list(parameters)[3:] == [
        'kernel_size',
        'stride',
        'dilation',
        'is_causal',
        'scale',
        'rpb',
        'padding',
    ]
    good = _good(rank)
    rpb = torch.randn(2, *(5,) * rank)
    positional = FUNCTIONS[rank](*good.values(), 2, 1, True, 0.3, rpb, 'zeros')
    named = FUNCTIONS[rank](
        **good, stride=2, dilation=1, is_causal=True, scale=0.3, rpb=rpb, padding='zeros'
    )
    assert torch.equal(positional, named)


@pytest.mark.parametrize('value', [3, (3, 3), [3, 3], torch.Size([3, 3])])
def test_ways_to_give_one_per_axis(value):
    good = _good()
    wanted = na2d(**good)
    assert torch.equal(na2d(**(good | dict(kernel_size=value))), wanted)


def test_scale():
    good = _good()
    assert torch.equal(na2d(**good), na2d(**good, scale=0.5))
    assert torch.equal(na2d(**good, scale=2), na2d(**good, scale=2.0))


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


def test_direct_callers_without_channels_are_refused():
    query = torch.empty(1, 8, 1, 0)
    with pytest.raises(RuntimeError, match='at least one head and channel'):
        torch.ops.natten_ops.na_forward(query, query, query, None, (3,), (1,), 1.0)
