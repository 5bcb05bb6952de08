"""Which files of a large data set are looked at: some that are spread over all of it."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

_Item = TypeVar('_Item')


def some(items: Sequence[_Item], most: int) -> Sequence[_Item]:
    """Return at most ``most`` of some items, in their order, spread evenly over all of them."""
    if len(items) <= most:
        return items
    return [items[index * len(items) // most] for index in range(most)]


def in_time(items: Sequence[_Item], seconds: float) -> Iterator[_Item]:
    """Give at least one of the items, and more of them until the time is over."""
    end = time.monotonic() + seconds
    for item in spread(items):
        yield item
        if time.monotonic() > end:
            return


def spread(items: Sequence[_Item]) -> Iterator[_Item]:
    """Give all items in an order in which the first few, however many, are spread over all of them."""
    bits = max(len(items) - 1, 0).bit_length()
    for number in range(1 << bits):
        index = int(f'{number:0{bits}b}'[::-1], 2) if bits else 0
        if index < len(items):
            yield items[index]
