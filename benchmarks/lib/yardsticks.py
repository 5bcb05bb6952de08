"""What times are compared with: arithmetic on the CPU, memory on CUDA."""

from collections.abc import Sequence
from typing import Protocol

from .copies import measure_copy
from .devices import Device
from .gemm import measure_gemm


class Yardstick(Protocol):
    """A rate of the machine; can be sent to another process."""

    def rate(self, repeats: int = 2) -> float:
        """The rate now: best of a few."""


def measure_yardsticks(
    device: Device, threads: Sequence[int], moment: str
) -> tuple[dict[int, Yardstick], dict[str, str]]:
    """Measure what the device can do.

    Args:
        device: How to time.
        threads: The numbers of threads.
        moment: When in the run, to say in the head of a file.

    Returns:
        The yardstick by number of threads, and lines for the head of a file.
    """
    if device.name == 'cpu':
        return measure_gemm(device, threads, moment)
    copy, head = measure_copy(device, moment)
    return dict.fromkeys(threads, copy), head
