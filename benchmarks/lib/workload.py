"""What is measured, and how much memory it takes."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .devices import get_device, total_bytes
from .process import in_fresh_process
from .timing import Timing, time_calls
from .yardsticks import Yardstick

FORWARD = 'forward'
TRAINING = 'forward+backward'
DIRECTIONS = (FORWARD, TRAINING)
# What a peer may take before it counts as not running on a usual machine.
PEER_SECONDS = 240
PEER_BYTES = 6 * 2**30
# A call that is known to run, in a process of its own, takes less than this on any machine.
CALL_SECONDS = 600


@dataclass(frozen=True)
class Computation:
    """A function with everything in place to run it forward and backward.

    Attributes:
        function: What to compute; returns its outputs.
        wanted: The tensors whose gradients training needs.
        gradients: One per output, what backward starts from.
        note: What the figures leave out, if anything.
    """

    function: Callable[[], Sequence[Tensor]]
    wanted: Sequence[Tensor]
    gradients: Sequence[Tensor]
    note: str = ''

    def forward(self) -> Sequence[Tensor]:
        """Run it for inference; returns all tensors it made that are asked for."""
        with torch.no_grad():
            return self.function()

    def training(self) -> Sequence[Sequence[Tensor]]:
        """Run it forward and backward; returns all tensors it made that are asked for."""
        outputs = self.function()
        return outputs, torch.autograd.grad(outputs, self.wanted, self.gradients)

    def call(self, direction: str) -> Callable[[], object]:
        """The call that one direction times."""
        for tensor in self.wanted:
            tensor.requires_grad_(direction == TRAINING)
        return self.forward if direction == FORWARD else self.training


class Workload(Protocol):
    """A description of a computation that can be sent to another process."""

    @property
    def device(self) -> str:
        """Name of the device."""

    @property
    def direction(self) -> str:
        """One of :data:`DIRECTIONS`."""

    def build(self) -> Computation:
        """Make the inputs."""

    def warm_up(self) -> 'Workload':
        """What to run to have code loaded and threads started before memory is measured."""


@dataclass(frozen=True)
class Memory:
    """Peak memory of a call beyond its inputs.

    Attributes:
        peak: Bytes, with the outputs and gradients that it returns.
        extra: Bytes without these.
    """

    peak: int
    extra: int


def peak_memory(workload: Workload, threads: int) -> Memory:
    """Measure the peak memory of one call in a fresh process.

    The process is forked from one that has imported everything and computed nothing. It runs the warm-up,
    makes the inputs, gives freed memory back, and compares the device's used memory before the call with
    its peak. On the CPU both are resident memory: the allocator has nothing in store, so whatever the call
    takes shows, through torch or not. What threads keep from the warm-up, on a small map, does not. On CUDA
    both are the memory of torch's tensors.

    Args:
        workload: What to measure.
        threads: Of torch.

    Raises:
        NotRun: If the call fails.
    """
    return in_fresh_process(_peak_memory, workload, threads, limit=CALL_SECONDS)


def _peak_memory(workload: Workload, threads: int) -> Memory:
    torch.set_num_threads(threads)
    small = workload.warm_up()
    small.build().call(small.direction)()
    return _measure_memory(workload.build().call(workload.direction), workload.device)


def _measure_memory(call: Callable[[], object], device_name: str) -> Memory:
    device = get_device(device_name)
    device.reset_peak()
    before = device.used_bytes()
    made = call()
    peak = max(device.peak_bytes() - before, 0)
    return Memory(peak, max(peak - total_bytes(made), 0))


def measure_peer(
    workload: Workload, threads: int, yardstick: Yardstick, repeats: int | None, budget: float
) -> tuple[Timing, Memory, str]:
    """Time, memory and note of a peer that may fail, in a process of its own with limits to both.

    Args:
        workload: What to measure.
        threads: Of torch.
        yardstick: As for :func:`benchmarks.lib.timing.time_calls`.
        repeats: As for :func:`benchmarks.lib.timing.time_calls`.
        budget: As for :func:`benchmarks.lib.timing.time_calls`.

    Raises:
        NotRun: If it fails, or needs more than :data:`PEER_SECONDS` or :data:`PEER_BYTES`.
    """
    return in_fresh_process(
        _measure_peer, workload, threads, yardstick, repeats, budget, limit=PEER_SECONDS
    )


def _measure_peer(
    workload: Workload, threads: int, yardstick: Yardstick, repeats: int | None, budget: float
) -> tuple[Timing, Memory, str]:
    # What a peer warns of is no concern of those who read its figures.
    warnings.simplefilter('ignore')
    torch.set_num_threads(threads)
    device = get_device(workload.device)
    device.limit_memory(PEER_BYTES)
    small = workload.warm_up()
    computation = small.build()
    computation.call(workload.direction)()
    # What was compiled in the warm-up belongs to its computation.
    if small != workload:
        computation = workload.build()
    call = computation.call(workload.direction)
    memory = _measure_memory(call, workload.device)
    timing = time_calls({'': call}, device, yardstick, repeats, budget)['']
    return timing, memory, computation.note
