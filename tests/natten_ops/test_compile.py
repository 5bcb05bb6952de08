"""torch.compile, torch.export, opcheck, shapes without memory, and counted operations."""

import subprocess
import sys

import pytest
import torch
from attention import attend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

from natten_ops import NeighborhoodAttention2D, na1d, na2d, na3d

# One setting for each way to compute: compiled, cropped, and the reference's border treatments.
SETTINGS = {
    'compiled': dict(dilation=(1, 2)),
    'cropped': dict(padding='valid'),
    'strided': dict(stride=(2, 1), is_causal=(True, False), dilation=2),
    'zeros': dict(padding='zeros', stride=(1, 2)),
}


def tensors(height=9, width=8, batch=2, **options):
    torch.manual_seed(0)
    return list(torch.randn(3, batch, height, width, 2, 4, **options).unbind())


def test_importing_does_not_import_the_compiler():
    program = """if True:
        import sys, torch
        before = set(sys.modules)
        import natten_ops
        print(*(name for name in set(sys.modules) - before if name.startswith(('torch._dynamo', 'sympy'))))
    """
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ''), done.stderr


@pytest.mark.parametrize(
    ('dtype', 'rpb'),
    [(torch.float32, True), (torch.float64, False), (torch.bfloat16, True), (torch.float16, False)],
)
def test_opcheck(dtype, rpb):
    inputs = [t.requires_grad_() for t in tensors(5, 6, dtype=dtype)]
    wide = torch.float32 if dtype.itemsize == 2 else dtype
    bias = torch.randn(2, 5, 3, dtype=wide, requires_grad=True) if rpb else None
    settings = ((3, 2), (1, 2), 0.7)
    torch.library.opcheck(torch.ops.natten_ops.na_forward, (*inputs, bias, *settings))
    with torch.no_grad():
        output, logsumexp = torch.ops.natten_ops.na_forward(*inputs, bias, *settings)
    saved = [t.detach() for t in inputs]
    bias = None if bias is None else bias.detach()
    arguments = (torch.randn_like(output), *saved, bias, output, logsumexp, *settings)
    torch.library.opcheck(torch.ops.natten_ops.na_backward, arguments)


def test_opcheck_of_strided_inputs():
    """The results' strides do not follow the inputs', in the shape rules neither."""
    base = torch.randn(2, 3, 2, 4, 5, 6)
    inputs = [t.movedim((1, 2), (-2, -1)).requires_grad_() for t in base.unbind(1)]
    torch.library.opcheck(torch.ops.natten_ops.na_forward, (*inputs, None, (3, 2), (1, 2), 0.7))


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


@pytest.mark.parametrize(
    ('name', 'dynamic'),
    [*((name, False) for name in SETTINGS), ('compiled', True), ('cropped', True), ('strided', True)],
)
def test_compile_every_setting(name, dynamic):
    """Without Inductor, which has nothing to add: the graph is whole, and right."""
    rpb = torch.randn(2, 5, 5, requires_grad=True)

    def function(query, key, value):
        return na2d(query, key, value, 3, rpb=rpb, **SETTINGS[name])

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend='aot_eager')
    # Tracing the reference's with symbols for sizes takes long.
    has_gradients = not dynamic or name in ('compiled', 'cropped')
    for size in [(9, 8), (11, 7)] if dynamic else [(9, 8)]:
        inputs = [t.requires_grad_() for t in tensors(*size)]
        with torch.set_grad_enabled(has_gradients):
            outputs = [f(*inputs) for f in (compiled, function)]
        assert torch.allclose(*outputs, atol=1e-6)
        if not has_gradients:
            continue
        grads = [torch.autograd.grad(o.square().sum(), [*inputs, rpb]) for o in outputs]
        assert all(torch.allclose(a, w, atol=1e-5) for a, w in zip(*grads, strict=True))


def test_compile_other_ranks():
    line = torch.randn(3, 2, 9, 2, 4)
    film = torch.randn(3, 2, 4, 6, 5, 2, 4)
    cases = ((na1d, line, (3,)), (na3d, film, (1, 3, 3)), (na3d, film, (2, 3, 3)))
    for function, inputs, kernel_size in cases:

        def attention(*tensors, function=function, kernel_size=kernel_size):
            return function(*tensors, kernel_size)

        torch._dynamo.reset()
        compiled = torch.compile(
            attention, fullgraph=True, dynamic=kernel_size[0] != 2, backend='aot_eager'
        )
        assert torch.allclose(compiled(*inputs), attention(*inputs), atol=1e-6)


def test_compile_with_window_as_argument():
    """Numbers that dynamic compilation does not take for constants."""
    query, key, value = tensors()
    torch._dynamo.reset()
    compiled = torch.compile(na2d, fullgraph=True, dynamic=True, backend='aot_eager')
    for kernel_size in (3, 4):
        actual = compiled(query, key, value, kernel_size, 1, 2)
        assert torch.allclose(actual, na2d(query, key, value, kernel_size, 1, 2), atol=1e-6)


TRANSFORMS = {
    'vmap': lambda f: torch.vmap(f),
    'grad': lambda f: torch.func.grad(lambda *t: f(*t).square().sum()),
    'vmap of grad': lambda f: torch.vmap(torch.func.grad(lambda *t: f(*t).square().sum())),
    'grad of vmap': lambda f: torch.func.grad(lambda *t: torch.vmap(f)(*t).square().sum()),
    'jvp': lambda f: lambda *t: torch.func.jvp(f, t, t)[1],
}


@pytest.mark.parametrize('name', TRANSFORMS)
def test_compile_transforms(name):
    inputs = [torch.stack([t, -t]) if 'vmap' in name else t for t in tensors(5, 4)]
    function = TRANSFORMS[name](lambda *t: na2d(*t, 3))
    torch._dynamo.reset()
    actual = torch.compile(function, fullgraph=True, backend='aot_eager')(*inputs)
    assert torch.allclose(actual, function(*inputs), atol=1e-4)


class Attention(torch.nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.settings = settings

    def forward(self, query, key, value):
        return na2d(query, key, value, 3, **self.settings)


@pytest.mark.parametrize(
    ('name', 'strict'),
    [('compiled', False), ('compiled', True), ('cropped', False), ('strided', True), ('zeros', False)],
)
def test_export(name, strict):
    least = 2 if name == 'zeros' else 6
    sizes = {1: Dim('height', min=least), 2: Dim('width', min=least)}
    module = Attention(SETTINGS[name])
    program = torch.export.export(module, tuple(tensors()), dynamic_shapes=(sizes,) * 3, strict=strict)
    is_compiled = any(
        node.target == torch.ops.natten_ops.na_forward.default for node in program.graph.nodes
    )
    assert is_compiled == (name in ('compiled', 'cropped'))
    for size in [(9, 8), (least, 13)]:
        inputs = tensors(*size)
        assert torch.allclose(program.module()(*inputs), module(*inputs), atol=1e-6)


@pytest.mark.parametrize('strict', [False, True])
def test_export_module(strict):
    attention = NeighborhoodAttention2D(16, 2, 3, 2).eval()
    sizes = {0: Dim('batch', min=1), 1: Dim('height', min=6), 2: Dim('width', min=6)}
    program = torch.export.export(
        attention, (torch.randn(2, 9, 8, 16),), dynamic_shapes=(sizes,), strict=strict
    )
    with torch.no_grad():
        for size in [(2, 9, 8), (1, 6, 13)]:
            x = torch.randn(*size, 16)
            assert torch.allclose(program.module()(x), attention(x), atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_shapes_and_dtypes_of_results(dtype):
    """Contiguous whatever the inputs' strides; the log-sum-exp of half precision in float32."""
    with FakeTensorMode():
        query = torch.empty(2, 2, 4, 9, 8, dtype=dtype).movedim((1, 2), (-2, -1))
        rpb = torch.empty(2, 5, 5, dtype=torch.float32 if dtype.itemsize == 2 else dtype)
        output, logsumexp = torch.ops.natten_ops.na_forward(query, query, query, rpb, (3, 3), (1, 1), 1.0)
        *grads, grad_rpb = torch.ops.natten_ops.na_backward(
            output, query, query, query, rpb, output, logsumexp, (3, 3), (1, 1), 1.0
        )
    assert logsumexp.dtype == grad_rpb.dtype == rpb.dtype
    assert logsumexp.shape == query.shape[:-1] and grad_rpb.shape == rpb.shape
    for tensor in (output, *grads):
        assert tensor.shape == query.shape and tensor.dtype == dtype and tensor.is_contiguous()


def test_meta_tensors_beyond_31_bits():
    """Shapes of more than 2**31 numbers, whatever computes them."""
    query = torch.empty(2, 2**14, 2**13, 2, 32, device='meta')
    assert query.numel() > 2**31
    for name, settings in SETTINGS.items():
        shrinks = 2 if name == 'cropped' else 0
        output = na2d(query, query, query, 3, **settings)
        assert output.shape == (2, 2**14 - shrinks, 2**13 - shrinks, 2, 32), name


@pytest.mark.parametrize('rank', [1, 2])
@pytest.mark.parametrize('rpb', [True, False])
def test_counted_operations(rank, rpb):
    spatial, kernel_size = (11, 9)[:rank], (4, 3)[:rank]
    inputs = list(torch.randn(3, 2, *spatial, 2, 8).unbind())
    if rpb:
        inputs.append(torch.randn(2, *(2 * k - 1 for k in kernel_size)))
    inputs = [t.requires_grad_() for t in inputs]
    tokens, window = inputs[0].shape[1:-2].numel(), torch.Size(kernel_size).numel()
    wanted = 4 * 2 * tokens * 2 * 8 * window
    with FlopCounterMode(display=False) as counter:
        output = attend(*inputs[:3], kernel_size, 1, inputs[3] if rpb else None)
    assert counter.get_total_flops() == wanted
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    assert counter.get_total_flops() == wanted * 5 // 2


def test_counted_operations_of_the_reference():
    """What it multiplies is what the operator multiplies."""
    counts = []
    for options in ({}, dict(stride=2)):
        with FlopCounterMode(display=False) as counter:
            na2d(*tensors(), 3, **options)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
