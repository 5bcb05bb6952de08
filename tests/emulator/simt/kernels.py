"""The CUDA kernels as functions of torch tensors: emulated, and watched by sanitizers, in a worker."""

import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import build
from .worker import POISON, Answer, Memory, Request

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
UNSTRIDED = ('bias', 'grad_bias', 'logsumexp')


class Worker:
    """A program that runs one request after the other; started anew when one has ended it."""

    def __init__(self) -> None:
        self._library = build.kernels()
        self._process: subprocess.Popen | None = None

    def _start(self) -> subprocess.Popen:
        preloaded = [build.asan_library(), os.environ.get('LD_PRELOAD', '')]
        environment = os.environ | dict(
            LD_PRELOAD=' '.join(filter(None, preloaded)),
            ASAN_OPTIONS='detect_leaks=0:detect_stack_use_after_return=0:quarantine_size_mb=16',
            UBSAN_OPTIONS='print_stacktrace=1',
            PYTHONPATH=str(Path(__file__).parents[1]),
        )
        return subprocess.Popen(
            [sys.executable, '-c', 'from simt import worker; worker.main()', str(self._library)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, request: Request) -> Answer:
        if self._process is None:
            self._process = self._start()
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            messages = self._process.communicate()[1].decode()
            code, self._process = self._process.returncode, None
            raise AssertionError(f'the kernels ended with code {code}:\n{messages}') from None
        assert answer.error is None, answer.error
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None


def _padded(values: Sequence[int], fill: int) -> tuple[int, ...]:
    """Two axes, of which one-dimensional attention has the second."""
    return (fill,) * (2 - len(values)) + tuple(values)


def _memory(tensor: Tensor, *, strided: bool = True, result: bool = False) -> Memory:
    """A strided tensor is one of (batch, *axes, heads, head_dim)."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    size = 1 + sum((n - 1) * step for n, step in steps) if tensor.numel() else 0
    data = None if result else _data(tensor.as_strided((size,), (1,)))
    stride = None
    if strided:
        batch, *axes, head, channel = tensor.stride()
        stride = (batch, *_padded(axes, 0), head, channel)
    return Memory(size * tensor.itemsize, tensor.data_ptr() % 16, stride, data, DTYPES[tensor.dtype])


def _data(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def _result(data: bytes, like: Tensor) -> Tensor:
    """The elements of a result; nothing may have been written between them."""
    if not data:
        return torch.empty_like(like)
    whole = torch.frombuffer(bytearray(data), dtype=like.dtype)
    result = whole.as_strided(like.shape, like.stride()).clone()
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[like.itemsize]
    whole.view(integers).as_strided(like.shape, like.stride()).fill_(-1)
    assert (whole.view(torch.uint8) == POISON).all(), 'written between the elements of a result'
    return result


@dataclasses.dataclass
class Kernels:
    """How to call the kernels.

    ``orders``, ``scalar``, ``capability``, ``multiprocessors``, ``far`` and ``allow_tf32`` are those of a
    Request;
    ``layout`` makes a tensor that has the strides for a result like another one; ``family`` tells which
    kernels served the last call ('small', 'matrix', 'staged' or 'scalar'), and
    ``contiguous_gradient_helps`` whether others than scalar ones do if grad_output is contiguous.
    """

    worker: Worker
    orders: tuple[int, ...] = (0,)
    scalar: bool = False
    capability: int = 90
    multiprocessors: int = 2
    far: bool = False
    allow_tf32: bool = False
    layout: Callable[[Tensor], Tensor] = lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype)
    family: str = 'none'
    contiguous_gradient_helps: bool = False

    def _run(
        self,
        function: str,
        inputs: dict[str, Tensor],
        results: dict[str, Tensor],
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        scale: float,
    ) -> list[Tensor]:
        query = inputs['query']
        memory = {
            name: _memory(tensor, strided=name not in UNSTRIDED, result=name in results)
            for name, tensor in (inputs | results).items()
        }
        problem = dict(
            batch=query.shape[0],
            length=_padded(query.shape[1:-2], 1),
            heads=query.shape[-2],
            head_dim=query.shape[-1],
            kernel_size=_padded(kernel_size, 1),
            dilation=_padded(dilation, 1),
            scale=scale,
        )
        answer = self.worker.run(
            Request(
                function,
                problem,
                DTYPES[query.dtype],
                self.allow_tf32,
                memory,
                self.orders,
                self.scalar,
                self.capability,
                self.multiprocessors,
                self.far,
            )
        )
        self.family = 'scalar' if self.scalar else answer.family
        self.contiguous_gradient_helps = answer.contiguous_gradient_helps
        return [_result(answer.results[name], like) for name, like in results.items()]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        scale: float,
    ) -> list[Tensor]:
        """Output and log-sum-exp."""
        inputs = dict(query=query, key=key, value=value)
        if bias is not None:
            inputs['bias'] = bias.contiguous()
        sums = torch.empty(query.shape[:-1], dtype=_compute_type(query.dtype))
        results = dict(output=self.layout(query), logsumexp=sums)
        return self._run('forward', inputs, results, kernel_size, dilation, scale)

    def backward(
        self,
        grad_output: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        bias: Tensor | None,
        logsumexp: Tensor,
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        scale: float,
    ) -> list[Tensor]:
        """Gradients of query, key, value and, where it is there, of the bias."""
        inputs = dict(grad_output=grad_output, query=query, key=key, value=value, output=output)
        inputs['logsumexp'] = logsumexp
        results = {f'grad_{name}': self.layout(inputs[name]) for name in ('query', 'key', 'value')}
        if bias is not None:
            inputs['bias'] = bias.contiguous()
            results['grad_bias'] = torch.empty(bias.shape, dtype=bias.dtype)
        return self._run('backward', inputs, results, kernel_size, dilation, scale)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        rpb: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """As attention.attend: with gradients."""
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        return _Attention.apply(query, key, value, rpb, self, (kernel_size, dilation, scale))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rpb: Tensor | None,
        kernels: Kernels,
        rest: tuple,
    ) -> Tensor:
        output, logsumexp = kernels.forward(query, key, value, rpb, *rest)
        ctx.save_for_backward(query, key, value, output, rpb, logsumexp)
        ctx.kernels, ctx.rest = kernels, rest
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.kernels.backward(grad_output, *ctx.saved_tensors, *ctx.rest)
        return *grads[:3], grads[3] if len(grads) > 3 else None, None, None


def _compute_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
