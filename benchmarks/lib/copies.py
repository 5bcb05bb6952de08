"""What the machine's memory can do: the rate of copies from memory to memory."""

import torch

from .devices import Device

BYTES = 2**30


class Copy:
    """A copy within the device's memory that is timed beside other calls: GB/s, read and written.

    Args:
        device: The device, which knows how to time.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.source = torch.zeros(BYTES, dtype=torch.int8, device=device.name)
        self.target = torch.empty_like(self.source)

    def __reduce__(self) -> tuple:
        """Another process makes memory of its own."""
        return Copy, (self.device,)

    def rate(self, repeats: int = 2) -> float:
        """The rate now: best of a few copies."""
        seconds = min(self.device.seconds(self._copy) for _ in range(repeats))
        return 2e-9 * self.source.nbytes / seconds

    def _copy(self) -> None:
        self.target.copy_(self.source)


def measure_copy(device: Device, moment: str) -> tuple[Copy, dict[str, str]]:
    """Measure the rate of copies.

    Args:
        device: The device, which knows how to time.
        moment: When in the run, to say in the head of a file.

    Returns:
        The copy, and a line for the head of a file.
    """
    copy = Copy(device)
    rate = copy.rate(repeats=10)
    line = f'{rate:.0f} GB/s read and written, {copy.source.nbytes >> 20} MiB'
    return copy, {f'copy within {device.name} memory, {moment}': line}
