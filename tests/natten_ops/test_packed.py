"""The operators on one fused projection, which the modules use: all as with its three slices."""

import pytest
import torch
from attention import DTYPES
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from natten_ops import NeighborhoodAttention2D, na1d, na2d, na3d
from natten_ops.functional import packed_neighborhood_attention

FUNCTIONS = {1: na1d, 2: na2d, 3: na3d}
WINDOWS = {1: ((4,), (2,)), 2: ((3, 4), (2, 1)), 3: ((1, 3, 2), (1, 1, 2))}


def packed(qkv, rpb=None, dropout=0.0):
    kernel_size, dilation = WINDOWS[qkv.dim() - 4]
    return packed_neighborhood_attention(qkv, kernel_size, dilation, 0.4, rpb, dropout)


def sliced(qkv, rpb=None):
    kernel_size, dilation = WINDOWS[qkv.dim() - 4]
    function = FUNCTIONS[len(kernel_size)]
    return function(*qkv.unbind(-3), kernel_size, dilation=dilation, scale=0.4, rpb=rpb)


def inputs(rank=2, rpb=True, dtype=torch.float64, batch=2):
    generator = torch.Generator().manual_seed(0)
    spatial = (8, 7, 6)[:rank]
    tensors = [torch.randn(batch, *spatial, 3, 2, 4, generator=generator, dtype=torch.float64).to(dtype)]
    if rpb:
        sizes = [2 * k - 1 for k in WINDOWS[rank][0]]
        bias = torch.randn(2, *sizes, generator=generator, dtype=torch.float64)
        tensors.append(bias.to(torch.float32 if dtype.itemsize == 2 else dtype))
    return [t.requires_grad_() for t in tensors]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('rpb', [True, False])
@pytest.mark.parametrize('rank', [1, 2, 3])
def test_is_attention_of_the_slices(rank, rpb, dtype):
    tensors = inputs(rank, rpb, dtype)
    outputs = [function(*tensors) for function in (packed, sliced)]
    assert torch.equal(*outputs) and outputs[0].is_contiguous()
    grad = torch.randn_like(outputs[0])
    for a, b in zip(*(torch.autograd.grad(output, tensors, grad) for output in outputs), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def test_projection_of_any_strides():
    base = torch.randn(2, 3, 2, 4, 8, 7)
    qkv = base.movedim((1, 2, 3), (-3, -2, -1)).requires_grad_()
    outputs = [function(qkv) for function in (packed, sliced)]
    assert torch.equal(*outputs)
    grads = [torch.autograd.grad(output.square().sum(), qkv)[0] for output in outputs]
    assert torch.equal(*grads)


def test_empty_batch():
    tensors = inputs(batch=0)
    output = packed(*tensors)
    output.sum().backward()
    assert output.shape == (0, 8, 7, 2, 4) and tensors[1].grad.abs().sum() == 0


def test_dropout():
    tensors = inputs()
    assert not torch.equal(packed(*tensors, dropout=0.5), packed(*tensors))


@pytest.mark.parametrize('rpb', [True, False])
def test_second_derivatives(rpb):
    tensors = [t[:1] if i == 0 else t for i, t in enumerate(inputs(1, rpb))]
    assert torch.autograd.gradgradcheck(packed, [t.detach().requires_grad_() for t in tensors])


@pytest.mark.parametrize(('dtype', 'rpb'), [(torch.float32, False), (torch.bfloat16, True)])
def test_opcheck(dtype, rpb):
    qkv, *bias = inputs(2, rpb, dtype)
    arguments = (*(bias or [None]), *WINDOWS[2], 0.4)
    torch.library.opcheck(torch.ops.natten_ops.na_packed_forward, (qkv, *arguments))
    qkv, *bias = (t.detach() for t in (qkv, *bias))
    output, logsumexp = torch.ops.natten_ops.na_packed_forward(qkv, *arguments)
    arguments = (torch.randn_like(output), qkv, *(bias or [None]), output, logsumexp, *WINDOWS[2], 0.4)
    torch.library.opcheck(torch.ops.natten_ops.na_packed_backward, arguments)


def test_counted_operations():
    counts = []
    for function in (packed, sliced):
        with FlopCounterMode(display=False) as counter:
            function(*inputs()).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 4 * 3.5 * 2 * 8 * 7 * 2 * 4 * 12


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    tensors = inputs(dtype=torch.float32)
    results = []
    for function in (packed, sliced):
        with torch.autocast('cpu', dtype):
            results.append(function(*tensors))
    assert results[0].dtype == dtype and torch.equal(*results)
    with FakeTensorMode(), torch.autocast('cpu', dtype):
        qkv, wide = torch.empty(1, 8, 7, 3, 2, 4), torch.empty(1, 8, 7, 3, 2, 4, dtype=torch.float64)
        for tensor, wanted in ((qkv, dtype), (wide, torch.float64)):
            output, _ = torch.ops.natten_ops.na_packed_forward(tensor, None, *WINDOWS[2], 0.4)
            assert output.dtype == wanted


def test_module_in_another_half_precision_than_autocast():
    attention = NeighborhoodAttention2D(16, 2, 3).half()
    with torch.autocast('cpu', torch.bfloat16):
        assert attention(torch.randn(1, 6, 6, 16).half()).dtype == torch.bfloat16


TRANSFORMS = {
    'gradients of every sample': lambda f: torch.vmap(torch.func.grad(f), (None, 0)),
    'vmap': lambda f: torch.vmap(f, (None, 0)),
    'jvp': lambda f: lambda p, x: torch.func.jvp(lambda p: f(p, x[0]), (p,), (p,))[1],
}


@pytest.mark.parametrize('is_compiled', [False, True])
@pytest.mark.parametrize('name', TRANSFORMS)
def test_torch_func_through_the_module(name, is_compiled):
    attention = NeighborhoodAttention2D(8, 2, (3, 4), (2, 1), qk_scale=0.4).double()
    parameters = {name: p.detach() for name, p in attention.named_parameters()}
    x = torch.randn(3, 8, 7, 8, dtype=torch.float64)

    def through_module(parameters, x):
        return torch.func.functional_call(attention, parameters, (x[None],)).square().sum()

    def by_hand(parameters, x):
        qkv = torch.nn.functional.linear(x[None], parameters['qkv.weight'], parameters['qkv.bias'])
        output = sliced(qkv.unflatten(-1, (3, 2, 4)), parameters['rpb']).flatten(-2)
        output = torch.nn.functional.linear(output, parameters['proj.weight'], parameters['proj.bias'])
        return output.square().sum()

    function = TRANSFORMS[name](through_module)
    if is_compiled:
        torch._dynamo.reset()
        function = torch.compile(function, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(function(parameters, x), TRANSFORMS[name](by_hand)(parameters, x))


def test_batched_gradients():
    tensors = inputs()
    results = []
    for function in (packed, sliced):
        output = function(*tensors)
        grads = torch.stack([torch.ones_like(output), output.detach()])
        results.append(torch.autograd.grad(output, tensors, grads, is_grads_batched=True))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    'shape', [(1, 8, 7, 2, 2, 4), (3, 2, 4), (1, 8, 7, 6, 3, 2, 4), (1, 2, 7, 3, 2, 4)]
)
def test_direct_callers_of_the_operator_are_checked(shape):
    with pytest.raises(RuntimeError, match='natten_ops'):
        torch.ops.natten_ops.na_packed_forward(torch.randn(shape), None, (3, 3), (1, 1), 1.0)
