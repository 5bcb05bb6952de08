"""Derivatives of every order and kind, and torch.func's transforms."""

import pytest
import torch
import torch.autograd.forward_ad as forward_mode
from attention import attend, reference

from natten_ops import na2d
from natten_ops.reference import neighborhood_attention_reference

WINDOW = ((3, 2), (1, 2))


def small_inputs(rpb=True, dtype=torch.float64, heads=2):
    generator = torch.Generator().manual_seed(0)
    inputs = list(torch.randn(3, 1, 4, 5, heads, 2, dtype=dtype, generator=generator).unbind())
    if rpb:
        inputs.append(torch.randn(heads, 5, 3, dtype=dtype, generator=generator))
    return [t.clone().requires_grad_() for t in inputs]


def fast(query, key, value, rpb=None):
    return attend(query, key, value, *WINDOW, rpb, scale=0.7)


def slow(query, key, value, rpb=None):
    return reference(query, key, value, *WINDOW, rpb, 0.7)


def close(actual, wanted):
    torch.testing.assert_close(actual, wanted, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize('rpb', [True, False])
def test_gradcheck(rpb):
    assert torch.autograd.gradcheck(fast, small_inputs(rpb))
    assert torch.autograd.gradgradcheck(fast, small_inputs(rpb, heads=1))


@pytest.mark.parametrize('rpb', [True, False])
def test_direct_callers_get_the_same_gradients(rpb):
    """torch.library's registration and what na2d calls share the rules, but not the way to them."""

    def direct(query, key, value, rpb=None):
        return torch.ops.natten_ops.na_forward(query, key, value, rpb, *WINDOW, 0.7)[0]

    results = []
    for function in (fast, direct):
        tensors = small_inputs(rpb)
        output = function(*tensors)
        results.append([output, *torch.autograd.grad(output.square().sum(), tensors)])
    assert all(map(torch.equal, *results))


@pytest.mark.filterwarnings('ignore:Converting a tensor')
def test_trace_has_the_operator():
    inputs = small_inputs()
    traced = torch.jit.trace(fast, inputs, check_trace=False)
    assert 'natten_ops::na_forward' in [node.kind() for node in traced.inlined_graph.nodes()]
    assert traced(*inputs).requires_grad


def test_third_derivative():
    results = []
    for function in (fast, slow):
        inputs = small_inputs()
        derivative = function(*inputs)
        for _ in range(3):
            (derivative,) = torch.autograd.grad(derivative.square().sum(), inputs[0], create_graph=True)
        results.append(derivative)
    close(*results)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_second_derivative_in_half_precision(dtype):
    inputs = [t.detach().to(dtype).requires_grad_() for t in small_inputs()[:3]]
    rpb = small_inputs()[3].detach().float().requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (*inputs, rpb)]
    results = []
    for leaves in ([*inputs, rpb], exact):
        first = torch.autograd.grad(fast(*leaves).square().sum(), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(t.square().sum() for t in first), leaves))
    for leaf, actual, wanted in zip((*inputs, rpb), *results, strict=True):
        assert actual.dtype == leaf.dtype
        error = float((actual.double() - wanted).abs().max() / wanted.abs().max())
        assert error <= 16 * torch.finfo(dtype).eps  # two roundings, amplified by their squares


@pytest.mark.parametrize('wanted', [(0,), (1,), (2,), (3,), (0, 3)])
def test_gradients_of_some_inputs_only(wanted):
    inputs = [t.detach() for t in small_inputs()]
    for index in wanted:
        inputs[index].requires_grad_()
    leaves = [inputs[index] for index in wanted]
    close(*(torch.autograd.grad(f(*inputs).square().sum(), leaves) for f in (fast, slow)))


def test_backward_twice_and_without_graph():
    inputs = small_inputs()
    output = fast(*inputs)
    first = torch.autograd.grad(output.sum(), inputs, retain_graph=True)
    close(torch.autograd.grad(output.sum(), inputs), first)
    with torch.no_grad():
        assert not fast(*inputs).requires_grad
    with torch.inference_mode():
        close(fast(*inputs).clone(), output.detach())


def many(count=3):
    """Query, key, value and rpb, ``count`` of each."""
    torch.manual_seed(0)
    return [torch.randn(count, *t.shape, dtype=t.dtype) for t in small_inputs()]


@pytest.mark.parametrize(
    'in_dims', [(0, 0, 0, None), (0, None, 0, None), (0, 0, 0, 0), (None, None, None, 0)]
)
@pytest.mark.parametrize('dim', [0, 2, -1])
def test_vmap(in_dims, dim):
    """Mapped over any dimension of any of the tensors."""
    stacked = [t if mapped == 0 else t[0] for t, mapped in zip(many(), in_dims, strict=True)]
    wanted = torch.stack(
        [
            slow(*(t[i] if mapped == 0 else t for t, mapped in zip(stacked, in_dims, strict=True)))
            for i in range(3)
        ]
    )
    moved = [t.movedim(0, dim) if mapped == 0 else t for t, mapped in zip(stacked, in_dims, strict=True)]
    dims = tuple(None if mapped is None else dim for mapped in in_dims)
    close(torch.vmap(fast, dims)(*moved), wanted)


def test_vmap_over_nothing():
    tensors = torch.randn(0, 1, 6, 6, 2, 4)
    assert torch.vmap(lambda t: na2d(t, t, t, 3))(tensors).shape == tensors.shape
    biases = torch.randn(0, 2, 5, 5)
    assert torch.vmap(lambda t, rpb: na2d(t, t, t, 3, rpb=rpb))(tensors, biases).shape == tensors.shape


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_vmap_of_other_dtypes(dtype):
    query, key, value, rpb = (t.to(dtype) for t in many())
    actual = torch.vmap(fast, (0, 0, 0, None))(query, key, value, rpb[0])
    wanted = torch.stack([fast(query[i], key[i], value[i], rpb[0]) for i in range(3)])
    assert torch.equal(actual, wanted)


def loss_of(function):
    return lambda *inputs: function(*inputs).pow(3).sum()


TRANSFORMS = {
    'grad': lambda f: lambda *t: torch.func.grad(loss_of(f), (0, 1, 2, 3))(*(x[0] for x in t)),
    'vmap of grad': lambda f: torch.vmap(torch.func.grad(loss_of(f), (0, 1, 2, 3))),
    'vmap of grad, shared bias': lambda f: (
        lambda *t: torch.vmap(torch.func.grad(loss_of(f), (0, 3)), (0, 0, 0, None))(*t[:3], t[3][0])
    ),
    'vmap of grad, no bias': lambda f: (
        lambda *t: torch.vmap(torch.func.grad(loss_of(f), (0, 1, 2)))(*t[:3])
    ),
    'grad of vmap': lambda f: torch.func.grad(loss_of(torch.vmap(f)), (0, 1, 2, 3)),
    'vmap of vmap': lambda f: lambda *t: torch.vmap(torch.vmap(f))(*(torch.stack([x, -x]) for x in t)),
    'jacrev': lambda f: (
        lambda *t: torch.func.jacrev(lambda x: f(x, *(y[0] for y in t[1:])).sum(-1))(t[0][0])
    ),
    'jvp': lambda f: lambda *t: torch.func.jvp(f, tuple(x[0] for x in t), tuple(x[1] for x in t)),
    'hessian': lambda f: lambda *t: torch.func.hessian(loss_of(f), 3)(*(x[0] for x in t)),
    'grad of grad': lambda f: (
        lambda *t: torch.func.grad(lambda *x: torch.func.grad(loss_of(f))(*x).pow(2).sum(), (0, 1, 2, 3))(
            *(x[0] for x in t)
        )
    ),
    'vmap of grad of grad': lambda f: torch.vmap(
        torch.func.grad(lambda *x: torch.func.grad(loss_of(f))(*x).pow(2).sum(), (0, 1))
    ),
}


@pytest.mark.parametrize('name', TRANSFORMS)
def test_torch_func(name):
    tensors = many()
    close(TRANSFORMS[name](fast)(*tensors), TRANSFORMS[name](slow)(*tensors))


@pytest.mark.parametrize('name', ['vmap of grad', 'grad of vmap', 'jvp'])
def test_torch_func_of_the_reference_path(name):
    def strided(query, key, value, rpb):
        return na2d(query, key, value, (3, 2), (2, 1), (1, 2), (False, True), rpb=rpb, padding='zeros')

    def each(query, key, value, rpb):
        settings = dict(stride=(2, 1), is_causal=(False, True), padding='zeros')
        return neighborhood_attention_reference(query, key, value, *WINDOW, rpb, 2**-0.5, **settings)[0]

    tensors = many()
    close(TRANSFORMS[name](strided)(*tensors), TRANSFORMS[name](each)(*tensors))


def test_batched_gradients():
    results = []
    for function in (fast, slow):
        inputs = small_inputs()
        output = function(*inputs)
        grads = torch.stack([torch.ones_like(output), output.detach(), output.detach() ** 2])
        results.append(torch.autograd.grad(output, inputs, grads, is_grads_batched=True))
    close(*results)


def test_training_over_vmap():
    results = []
    for function in (fast, slow):
        tensors = [t.requires_grad_() for t in many()]
        results.append(torch.autograd.grad(loss_of(torch.vmap(function))(*tensors), tensors))
    close(*results)


def test_forward_mode():
    inputs = [t.detach() for t in small_inputs()]
    tangents = [torch.randn_like(t) for t in inputs]
    results = []
    for function in (fast, slow):
        with forward_mode.dual_level():
            dual = [forward_mode.make_dual(*pair) for pair in zip(inputs, tangents, strict=True)]
            results.append(forward_mode.unpack_dual(function(*dual)).tangent)
    close(*results)
