"""Which of our levels replaces which output of the present backbone."""

from collections.abc import Sequence

from .probe import FeatureMap

STRIDES = (4, 8, 16, 32)


def nearest_level(stride: int) -> int:
    """The level of that stride, else the finest or the coarsest."""
    return min(max(stride.bit_length() - 3, 0), len(STRIDES) - 1)


def is_pyramid(maps: Sequence[FeatureMap]) -> bool:
    """Whether no map is finer than the one before it."""
    strides = [m.stride for m in maps]
    return strides == sorted(strides)


def assign(maps: Sequence[FeatureMap], single_map_uses_coarsest: bool) -> list[int]:
    """Choose a level for every map of a pyramid, from fine to coarse, no level twice.

    A map gets the level of its stride. Dilated networks and plain transformers give maps of equal stride,
    which differ in depth: then each gets the level after the one before, and the last gets the coarsest.

    Args:
        maps: Up to four maps of strides up to 32.
        single_map_uses_coarsest: Whether a single map gets the coarsest level, whatever its stride.
    """
    wanted = [nearest_level(m.stride) for m in maps]
    if len(maps) == 1:
        return [len(STRIDES) - 1] if single_map_uses_coarsest else wanted
    if len(set(wanted)) == len(wanted):
        return wanted
    levels: list[int] = []
    for index, level in enumerate(wanted):
        lowest = levels[-1] + 1 if levels else 0
        highest = len(STRIDES) - len(wanted) + index
        levels.append(min(max(level, lowest), highest))
    return [*levels[:-1], len(STRIDES) - 1]
