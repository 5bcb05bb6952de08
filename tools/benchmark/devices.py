"""How time and memory are measured, by device."""

import ctypes
import gc
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from launcher.errors import UserError


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


def get_device(name: str) -> Cpu:
    """The device of this name; raises UserError where measuring is not implemented."""
    if name != 'cpu':
        raise UserError(
            f'--device must be cpu, got {name!r}', 'measure on other devices is not implemented'
        )
    return Cpu()


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
