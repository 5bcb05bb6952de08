"""How time and memory are measured, by device."""

import ctypes
import gc
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from mmnat.errors import UserError


class Device(Protocol):
    """Where something is measured."""

    name: str

    def seconds(self, call: Callable[[], object]) -> float:
        """Time one call."""

    def reset_peak(self) -> None:
        """Give freed memory back to the system, and start the peak anew from what is in use."""

    def used_bytes(self) -> int:
        """Memory in use now."""

    def peak_bytes(self) -> int:
        """Most memory in use since :meth:`reset_peak`."""

    def limit_memory(self, limit: int) -> None:
        """Let allocations of this process fail that go beyond what it has by more than ``limit`` bytes."""


class Cpu:
    """The CPU: wall-clock time, and the resident memory of the process.

    Resident memory sees what the kernels allocate themselves as well as what goes through torch.
    """

    name = 'cpu'

    @staticmethod
    def seconds(call: Callable[[], object]) -> float:
        """Time one call."""
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def reset_peak(self) -> None:
        """Give freed memory back to the system, and start the peak anew from what is in use."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')

    @staticmethod
    def used_bytes() -> int:
        """Resident memory now."""
        return _status('VmRSS')

    @staticmethod
    def peak_bytes() -> int:
        """Largest resident memory since :meth:`reset_peak`."""
        return _status('VmHWM')

    @staticmethod
    def limit_memory(limit: int) -> None:
        """Let allocations of this process fail that go beyond what it has by more than ``limit`` bytes."""
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_status('VmSize') + limit, most))


def _status(name: str) -> int:
    """A figure of this process, in bytes."""
    return 1024 * int(
        re.search(rf'^{name}:\s*(\d+) kB', Path('/proc/self/status').read_text(), re.MULTILINE)[1]
    )


class Cuda:
    """The current CUDA device: time between events, and memory of torch's allocator.

    A call is timed as in a training step, in which the host runs ahead: while the device waits, the call is
    put on the stream as a whole, so that only what the device does counts. What the call reads is not in
    the cache. Memory that does not come from torch's allocator is not seen; natten_ops takes none.
    """

    name = 'cuda'
    # Clock cycles, some milliseconds: longer than the host takes to put any of the calls on the stream.
    wait = 10**7
    # More than the cache of any device.
    cache_bytes = 2**29

    def seconds(self, call: Callable[[], object]) -> float:
        """Time one call."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        evicting = torch.empty(self.cache_bytes // 4, device=self.name)
        torch.cuda._sleep(self.wait)
        evicting.max()  # reads: written lines would go back to memory within the time
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    @staticmethod
    def reset_peak() -> None:
        """Give freed memory back to the system, and start the peak anew from what is in use."""
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    @staticmethod
    def used_bytes() -> int:
        """Memory of tensors now."""
        return torch.cuda.memory_allocated()

    @staticmethod
    def peak_bytes() -> int:
        """Largest memory of tensors since :meth:`reset_peak`."""
        return torch.cuda.max_memory_allocated()

    @staticmethod
    def limit_memory(limit: int) -> None:
        """Nothing to do: what goes beyond the device's memory fails, and harms no other process."""


DEVICES = {'cpu': Cpu, 'cuda': Cuda}


def get_device(name: str, known: Sequence[str] = tuple(DEVICES)) -> Device:
    """The device of this name.

    Args:
        name: What ``--device`` was given.
        known: The names that may be given.

    Raises:
        UserError: If it is none of them, or torch finds no such device.
    """
    if name not in known:
        raise UserError(
            f'--device must be {" or ".join(known)}, got {name!r}',
            'measuring on other devices is not implemented',
        )
    if name == 'cuda' and not torch.cuda.is_available():
        raise UserError(
            f'--device cuda needs a GPU, and torch {torch.__version__} finds none',
            'check the driver and that torch was built with CUDA, or use --device cpu',
        )
    return DEVICES[name]()


def total_bytes(made: object) -> int:
    """Bytes of the distinct tensors in nested tuples and lists."""
    storages = {}

    def visit(item: object) -> None:
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, (tuple, list)):
            for part in item:
                visit(part)

    visit(made)
    return sum(storages.values())
