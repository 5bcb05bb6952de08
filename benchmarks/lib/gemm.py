"""What the machine's arithmetic can do: the rate of float32 matrix products."""

from collections.abc import Sequence

import torch

from .devices import Device

# Square matrices large enough for full speed; the best size differs between machines.
SIZES = (1024, 1536, 2048)


class Gemm:
    """A matrix product that is timed beside other calls, for clocks drift: GFLOP/s.

    Args:
        device: How to time.
        size: Rows and columns.
    """

    def __init__(self, device: Device, size: int) -> None:
        self.device = device
        self.size = size
        self.left, self.right = (torch.randn(size, size) for _ in range(2))
        self.product = torch.empty(size, size)

    def __reduce__(self) -> tuple:
        """Another process makes matrices of its own."""
        return Gemm, (self.device, self.size)

    def rate(self, repeats: int = 2) -> float:
        """The rate now: best of a few products."""

        def multiply() -> None:
            torch.mm(self.left, self.right, out=self.product)

        return 2e-9 * self.size**3 / min(self.device.seconds(multiply) for _ in range(repeats))


def best_gemm(device: Device) -> tuple[Gemm, float]:
    """The fastest size with the present number of threads, and its GFLOP/s."""
    rates = {gemm: gemm.rate(repeats=5) for gemm in (Gemm(device, size) for size in SIZES)}
    best = max(rates, key=rates.get)
    return best, rates[best]


def measure_gemm(
    device: Device, threads: Sequence[int], moment: str
) -> tuple[dict[int, Gemm], dict[str, str]]:
    """Measure the peak of arithmetic with every number of threads.

    Args:
        device: How to time.
        threads: The numbers of threads.
        moment: When in the run, to say in the head of a file.

    Returns:
        The fastest product by number of threads, and lines for the head of a file.
    """
    gemms, head = {}, {}
    for count in threads:
        torch.set_num_threads(count)
        gemms[count], rate = best_gemm(device)
        side = gemms[count].size
        name = f'float32 GEMM peak, {count} {"thread" if count == 1 else "threads"}, {moment}'
        head[name] = f'{rate:.1f} GFLOP/s at {side}x{side}'
    return gemms, head
