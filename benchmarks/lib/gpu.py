"""What the scripts for a GPU share: rows that are written at once, medians, and what kernels take."""

import contextlib
import datetime
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.autograd import DeviceType

WARM_UP = 3


@dataclass(frozen=True)
class KernelTime:
    """What one kernel, or one kind of copy, took in a call.

    Attributes:
        name: Of the kernel.
        microseconds: In a call.
        launches: In a call.
    """

    name: str
    microseconds: float
    launches: float


def row_writer(path: Path | None) -> Callable[..., None]:
    """A function that prints a row of named values and appends it to a file, as a JSON object."""

    def write(**row: object) -> None:
        if path:
            with path.open('a') as file:
                print(json.dumps(row), file=file)
        print(row, flush=True)

    return write


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Float32 may be multiplied as TF32, as torch's matrix products are then."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = 'tf32'
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def describe(command: str, what: str) -> dict[str, str]:
    """The first row: the machine, and what is measured by which command."""
    return dict(
        date=datetime.date.today().isoformat(),
        gpu=torch.cuda.get_device_name(),
        torch=torch.__version__,
        command=command,
        what=what,
    )


def median_seconds(
    call: Callable[[], object], seconds: Callable[[Callable[[], object]], float], repeats: int
) -> float:
    """Median time of a call, once warm; ``seconds`` times one."""
    for _ in range(WARM_UP):
        call()
    return statistics.median(seconds(call) for _ in range(repeats))


def kernel_times(call: Callable[[], object], calls: int = 5) -> list[KernelTime]:
    """What the kernels of a call take, and its copies between memories."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    return [
        KernelTime(event.key, event.device_time_total / calls, event.count / calls)
        for event in profile.key_averages()
        # The rest are calls of the host, and ranges that a program has named.
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
