"""How the CUDA kernels go together with torch: streams, graphs, compiler, autocast, memory, devices."""

import pytest
import torch
from attention import Problem, attend, gradients
from on_gpu import assert_equal, draw, run

from natten_ops import NeighborhoodAttention2D, na2d

pytestmark = pytest.mark.gpu
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
FUSED = ('fused',) * 3 + ('contiguous',)
LONG = 10**8  # clock cycles, some 50 ms


def problem(dtype, seed=0):
    return Problem(2, (37, 45), 4, 32, (7, 7), (1, 3), dtype, torch.float32, FUSED, seed)


def test_the_library_says_what_it_was_compiled_for():
    assert '.' in torch.ops.natten_ops.cuda_architectures()


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_cuda_graph(dtype):
    """Captured once, replayed with other numbers."""
    inputs, grad = draw(problem(dtype))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(problem(dtype), inputs, grad)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(problem(dtype), inputs, grad)
    for seed in (1, 2):
        others, other_grad = draw(problem(dtype, seed))
        with torch.no_grad():
            for tensor, other in zip((*inputs, grad), (*others, other_grad), strict=True):
                tensor.copy_(other)
        graph.replay()
        assert_equal(captured, run(problem(dtype), others, other_grad))


def test_nothing_waits_for_the_device():
    inputs, grad = draw(problem(torch.float16))
    run(problem(torch.float16), inputs, grad)
    torch.cuda.synchronize()
    torch.cuda._sleep(20 * LONG)
    done = torch.cuda.Event()
    torch.cuda.set_sync_debug_mode('error')
    try:
        run(problem(torch.float16), inputs, grad)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    done.record()
    assert not done.query()


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_runs_on_the_current_stream(dtype):
    """The inputs get their numbers late, on the same stream."""
    inputs, grad = draw(problem(dtype))
    wanted = run(problem(dtype), inputs, grad)
    late = [torch.zeros_like(t, requires_grad=True) for t in inputs]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(LONG)
        for tensor, source in zip(late, inputs, strict=True):
            tensor.copy_(source)
    with torch.cuda.stream(stream):
        actual = run(problem(dtype), late, grad)
    stream.synchronize()
    assert_equal(actual, wanted)


def test_two_streams():
    """At the same time, with memory that one frees while the other allocates."""
    problems = [problem(torch.float16, seed) for seed in (0, 1)]
    drawn = [draw(p) for p in problems]
    wanted = [run(p, *d) for p, d in zip(problems, drawn, strict=True)]
    streams = [torch.cuda.Stream() for _ in problems]
    torch.cuda.synchronize()
    actual = [[], []]
    for _ in range(20):
        for which, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                actual[which].append(run(problems[which], *drawn[which]))
    torch.cuda.synchronize()
    for results, one in zip(actual, wanted, strict=True):
        for result in results:
            assert_equal(result, one)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32], ids=str)
def test_compile(dtype):
    torch.manual_seed(0)
    attention = NeighborhoodAttention2D(64, 2, 7, 2).to('cuda', dtype)
    compiled = torch.compile(attention, fullgraph=True)
    x = torch.randn(2, 20, 31, 64, device='cuda', dtype=dtype, requires_grad=True)
    tensors = [x, *attention.parameters()]
    results = []
    for module in (attention, compiled):
        output = module(x)
        results.append([output, *torch.autograd.grad(output.float().square().mean(), tensors)])
    tolerance = 1e-4 if dtype == torch.float32 else 1e-2
    for eager, other in zip(*results, strict=True):
        assert (eager - other).abs().max() <= tolerance * eager.abs().max()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype):
    generator = torch.Generator().manual_seed(0)
    inputs = [t.cuda().requires_grad_() for t in torch.randn(3, 2, 14, 15, 2, 32, generator=generator)]
    rpb = torch.randn(2, 13, 13, generator=generator).cuda().requires_grad_()
    with torch.autocast('cuda', dtype):
        output = na2d(*inputs, 7, rpb=rpb)
        direct, _ = torch.ops.natten_ops.na_forward(*inputs, rpb, (7, 7), (1, 1), 32**-0.5)
    assert output.dtype == direct.dtype == dtype and torch.equal(output, direct)
    output.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in (*inputs, rpb))
    assert torch.equal(output, na2d(*(t.to(dtype) for t in inputs), 7, rpb=rpb))


def test_bias_of_half_precision():
    """Its gradient comes in its dtype, rounded once."""
    inputs, grad = draw(Problem(1, (20, 22), 2, 32, (7, 7), (1, 1), torch.float16, torch.float16))
    wide = [*inputs[:3], inputs[3].detach().float().requires_grad_()]
    results = [gradients(attend, tensors, grad, (7, 7), (1, 1)) for tensors in (inputs, wide)]
    results[1][4] = results[1][4].half()
    assert_equal(*results)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_gradient_of_a_sum_takes_the_same_kernels(dtype):
    """It is one number, expanded, which tensor cores cannot read: it is copied for them."""
    inputs, grad = draw(problem(dtype))
    summed = run(problem(dtype), inputs, torch.ones((), device='cuda', dtype=dtype).expand(grad.shape))
    assert_equal(summed, run(problem(dtype), inputs, torch.ones_like(grad)))


def test_out_of_memory_leaves_the_process_usable():
    inputs, grad = draw(problem(torch.float16))
    wanted = run(problem(torch.float16), inputs, grad)
    used = torch.cuda.memory_allocated()
    token = torch.ones(1, 8, 8, 1, 32, device='cuda', dtype=torch.float16)
    copies = torch.cuda.get_device_properties(0).total_memory // token.nbytes
    many = token.expand(copies, -1, -1, -1, -1)  # takes no memory, but its output would
    settings = ((7, 7), (1, 1), 1.0)
    with pytest.raises(RuntimeError, match='out of memory'):
        na2d(many, many, many, 7)
    logsumexp = torch.ones(1, device='cuda').expand(many.shape[:-1])
    with pytest.raises(RuntimeError, match='out of memory'):
        torch.ops.natten_ops.na_backward(many, many, many, many, None, many, logsumexp, *settings)
    del many, token, logsumexp
    assert torch.cuda.memory_allocated() == used
    assert_equal(run(problem(torch.float16), inputs, grad), wanted)


def test_mixed_devices():
    query = torch.randn(1, 9, 9, 2, 32, device='cuda')
    rpb = torch.randn(2, 5, 5, device='cuda')
    with pytest.raises(ValueError, match='key must be on the device of query'):
        na2d(query, query.cpu(), query, 3)
    with pytest.raises(ValueError, match='rpb must be on the device of query'):
        na2d(query, query, query, 3, rpb=rpb.cpu())
    direct = torch.ops.natten_ops.na_forward
    settings = ((3, 3), (1, 1), 1.0)
    for tensors in (
        (query.cpu(), query, query, rpb),
        (query, query.cpu(), query, rpb),
        (query, query, query.cpu(), None),
        (query, query, query, rpb.cpu()),
    ):
        with pytest.raises(RuntimeError, match='natten_ops: '):
            direct(*tensors, *settings)


def test_direct_callers_are_checked():
    query = torch.randn(1, 9, 9, 2, 264, device='cuda')
    with pytest.raises(RuntimeError, match='head_dim must be at most 256 on CUDA, got 264'):
        torch.ops.natten_ops.na_forward(query, query, query, None, (3, 3), (1, 1), 1.0)
    with pytest.raises(RuntimeError, match='must be positive and at most the length 9'):
        torch.ops.natten_ops.na_forward(query, query, query, None, (3, 11), (1, 1), 1.0)


def test_device_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip('there is one GPU only')
    inputs, grad = draw(problem(torch.float16))
    wanted = run(problem(torch.float16), inputs, grad)
    others = [t.detach().to('cuda:1').requires_grad_() for t in inputs]
    actual = run(problem(torch.float16), others, grad.to('cuda:1'))
    assert torch.cuda.current_device() == 0
    assert_equal([t.to('cuda:0') for t in actual], wanted)
