"""Calls the library of kernels, on behalf of kernels.py.

A program of its own, as sanitizers have to be preloaded. Requests come on the standard input and answers go
to the standard output, pickled. It needs nothing but Python: torch takes long to import here.
"""

import ctypes
import dataclasses
import mmap
import os
import pickle
import signal
import sys
from collections.abc import Iterator

#: Seconds that a request may take; then the program ends.
TIME_LIMIT = 300
POISON = 0xFF  # a byte of NaN, in all formats
FAMILIES = ('small', 'matrix', 'staged', 'scalar')  # in the order of csrc/cuda/calls.h
FAR = 2**32
MAP_NORESERVE = 0x4000  # Linux
SIZES = (4, 8, 2, 2)  # of problem.h's dtypes


@dataclasses.dataclass
class Memory:
    """What a tensor's elements lie in, from the first to the last.

    ``shift`` is the address modulo 16; ``stride`` is of (batch, axis 0, axis 1, heads, head_dim) in
    elements, or None for memory without strides; ``data`` is None for a result; ``dtype`` is problem.h's.
    """

    size: int
    shift: int = 0
    stride: tuple[int, ...] | None = None
    data: bytes | None = None
    dtype: int = 0


@dataclasses.dataclass
class Request:
    """A call of the kernels, once in each order of threads."""

    function: str
    problem: dict[str, int | float | tuple[int, int]]
    dtype: int  # problem.h's
    allow_tf32: bool
    memory: dict[str, Memory]  # by the names of calls.h
    orders: tuple[int, ...]  # see simt_set_order
    scalar: bool  # the scalar kernels, whatever the problem
    capability: int
    multiprocessors: int
    far: bool  # rows of (contiguous) tensors are to lie FAR bytes apart


@dataclasses.dataclass
class Answer:
    """What a call returned, and what its results then held: the bytes of ``size``."""

    error: str | None
    family: str  # of kernels that serves the call
    results: dict[str, bytes]
    contiguous_gradient_helps: bool = False


_pair = ctypes.c_int64 * 2


class Problem(ctypes.Structure):
    """As in csrc/problem.h."""

    _fields_ = [
        ('batch', ctypes.c_int64),
        ('length', _pair),
        ('heads', ctypes.c_int64),
        ('head_dim', ctypes.c_int64),
        ('kernel_size', _pair),
        ('dilation', _pair),
        ('scale', ctypes.c_double),
    ]


class TensorView(ctypes.Structure):
    """As in csrc/problem.h."""

    _fields_ = [
        ('data', ctypes.c_void_p),
        ('batch_stride', ctypes.c_int64),
        ('axis_stride', _pair),
        ('head_stride', ctypes.c_int64),
        ('channel_stride', ctypes.c_int64),
    ]


class BiasView(ctypes.Structure):
    """As in csrc/cuda/calls.h."""

    _fields_ = [('data', ctypes.c_void_p), ('dtype', ctypes.c_int)]


class ForwardCall(ctypes.Structure):
    """As in csrc/cuda/calls.h."""

    _fields_ = [
        ('problem', Problem),
        ('dtype', ctypes.c_int),
        ('allow_tf32', ctypes.c_bool),
        *((name, TensorView) for name in ('query', 'key', 'value', 'output')),
        ('bias', BiasView),
        ('logsumexp', ctypes.c_void_p),
    ]


class BackwardCall(ctypes.Structure):
    """As in csrc/cuda/calls.h."""

    _fields_ = [
        ('problem', Problem),
        ('dtype', ctypes.c_int),
        ('allow_tf32', ctypes.c_bool),
        *((name, TensorView) for name in ('grad_output', 'query', 'key', 'value', 'output')),
        ('bias', BiasView),
        ('logsumexp', ctypes.c_void_p),
        *((name, TensorView) for name in ('grad_query', 'grad_key', 'grad_value')),
        ('grad_bias', BiasView),
        ('scratch', ctypes.c_void_p),
    ]


_heap = ctypes.CDLL(None)
_heap.malloc.argtypes, _heap.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
_heap.free.argtypes = [ctypes.c_void_p]


class Allocations:
    """Memory from malloc, which AddressSanitizer watches on both sides.

    ``far_rows``, if not 1, is how many rows tensors with strides have, which then lie FAR bytes apart, in
    memory of which little is touched.
    """

    def __init__(self, far_rows: int = 1) -> None:
        self._far_rows = far_rows
        self._blocks: list[int] = []
        self._far_blocks: list[ctypes.Array] = []

    def is_far(self, memory: Memory) -> bool:
        return self._far_rows > 1 and memory.stride is not None

    def add(self, memory: Memory) -> int:
        """The address of a copy, or of poison."""
        if self.is_far(memory):
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
            pages = mmap.mmap(-1, self._far_rows * FAR, flags)
            self._far_blocks.append((ctypes.c_char * len(pages)).from_buffer(pages))
            address = ctypes.addressof(self._far_blocks[-1])
        else:
            self._blocks.append(_heap.malloc(memory.shift + memory.size))
            assert self._blocks[-1] % 16 == 0
            ctypes.memset(self._blocks[-1], POISON, memory.shift)
            address = self._blocks[-1] + memory.shift
        for begin, length, row in self._rows(memory, address):
            if memory.data is None:
                ctypes.memset(row, POISON, length)
            else:
                ctypes.memmove(row, memory.data[begin : begin + length], length)
        return address

    def _rows(self, memory: Memory, address: int) -> Iterator[tuple[int, int, int]]:
        """Where each begins in the data, its length and its address."""
        rows = self._far_rows if self.is_far(memory) else 1
        length = memory.size // rows
        for row in range(rows):
            yield row * length, length, address + row * FAR

    def read(self, memory: Memory, address: int) -> bytes:
        return b''.join(ctypes.string_at(row, length) for _, length, row in self._rows(memory, address))

    def free(self) -> None:
        for block in self._blocks:
            _heap.free(block)
        self._far_blocks.clear()


def make_call(
    request: Request, allocations: Allocations, addresses: dict[str, int]
) -> ForwardCall | BackwardCall:
    call = ForwardCall() if request.function == 'forward' else BackwardCall()
    for name, value in request.problem.items():
        setattr(call.problem, name, _pair(*value) if isinstance(value, tuple) else value)
    call.dtype, call.allow_tf32 = request.dtype, request.allow_tf32
    for name, address in addresses.items():
        memory = request.memory[name]
        if memory.stride is None:
            is_bias = name in ('bias', 'grad_bias')
            setattr(call, name, BiasView(address, memory.dtype) if is_bias else address)
            continue
        batch, axis0, axis1, head, channel = memory.stride
        if allocations.is_far(memory):
            axis0 = FAR // SIZES[request.dtype]
        setattr(call, name, TensorView(address, batch, _pair(axis0, axis1), head, channel))
    return call


def run(library: ctypes.CDLL, request: Request, order: int) -> Answer:
    allocations = Allocations(request.problem['length'][0] if request.far else 1)
    addresses = {name: allocations.add(memory) for name, memory in request.memory.items()}
    call = make_call(request, allocations, addresses)
    if request.function == 'backward':
        size = library.simt_backward_scratch(ctypes.byref(call), request.scalar)
        call.scratch = allocations.add(Memory(size))
    library.simt_set_order(order)
    error = getattr(library, f'simt_{request.function}')(ctypes.byref(call), request.scalar)
    results = {}
    for name, memory in request.memory.items():
        after = allocations.read(memory, addresses[name])
        if memory.data is None:
            results[name] = after
        else:
            assert after == memory.data, f'{name} was written to'
    family = FAMILIES[getattr(library, f'simt_family_{request.function}')(ctypes.byref(call))]
    helps = request.function == 'backward' and library.simt_contiguous_gradient_helps(ctypes.byref(call))
    allocations.free()
    return Answer(error and error.decode(), family, results, helps)


def run_in_all_orders(library: ctypes.CDLL, request: Request) -> Answer:
    os.environ['NATTEN_OPS_SIMT_CAPABILITY'] = str(request.capability)
    os.environ['NATTEN_OPS_SIMT_MULTIPROCESSORS'] = str(request.multiprocessors)
    first, *others = (run(library, request, order) for order in request.orders)
    for order, other in zip(request.orders[1:], others, strict=True):
        for name, result in other.results.items():
            same = result == first.results[name]
            assert same, f'{name} differs between the orders {request.orders[0]} and {order} of threads'
    return first


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    library.simt_backward_scratch.restype = ctypes.c_int64
    library.simt_contiguous_gradient_helps.restype = ctypes.c_bool
    for function in ('forward', 'backward'):
        getattr(library, f'simt_{function}').restype = ctypes.c_char_p
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        signal.alarm(TIME_LIMIT)
        try:
            answer = run_in_all_orders(library, request)
        except AssertionError as error:
            answer = Answer(str(error), False, False, {})
        signal.alarm(0)
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.flush()
