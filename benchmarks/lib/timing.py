"""Times of calls that are compared with each other."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mmnat.launch.memory import keep_freed_memory

from .devices import Device
from .yardsticks import Yardstick

# Every round times the yardstick once and a share of every call, so that drift meets all alike.
ROUNDS = 7
LEAST_REPEATS, MOST_REPEATS = 3, 100


@dataclass(frozen=True)
class Timing:
    """The repetitions of one call.

    Attributes:
        median: Seconds.
        minimum: Seconds.
        maximum: Seconds.
        repeats: How many there were.
        yardstick: Median rate of the yardstick between them.
    """

    median: float
    minimum: float
    maximum: float
    repeats: int
    yardstick: float


def time_calls(
    calls: Mapping[str, Callable[[], object]],
    device: Device,
    yardstick: Yardstick,
    repeats: int | None,
    budget: float,
) -> dict[str, Timing]:
    """Time calls in turns, in memory that is kept: none waits for the system to clear pages.

    Args:
        calls: By name.
        device: How to time.
        yardstick: What to measure between the calls.
        repeats: Timed repetitions of every call; None for as many as the budget allows, but at least
            three.
        budget: Seconds for the repetitions of one call.

    Returns:
        One timing per call.
    """
    keep_freed_memory()
    counts = {name: _warm_up(call, device, repeats, budget) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    rates = []
    rounds = min(ROUNDS, max(counts.values()))
    for turn in range(rounds):
        rates.append(yardstick.rate())
        for name, call in calls.items():
            share = counts[name] * (turn + 1) // rounds - counts[name] * turn // rounds
            seconds[name] += (device.seconds(call) for _ in range(share))
    rate = statistics.median(rates)
    return {
        name: Timing(statistics.median(times), min(times), max(times), len(times), rate)
        for name, times in seconds.items()
    }


def _warm_up(call: Callable[[], object], device: Device, repeats: int | None, budget: float) -> int:
    """Run a call until it is warm and return how often to time it."""
    seconds = device.seconds(call)
    if repeats is not None:
        return repeats
    if seconds < budget:
        # The first call also loaded code and made memory.
        seconds = min(device.seconds(call) for _ in range(2))
    return max(LEAST_REPEATS, min(int(budget / seconds), MOST_REPEATS))
