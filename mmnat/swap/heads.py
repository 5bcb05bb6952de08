"""Heads on new maps: their input channels and indices, and what they count on the strides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .probe import FeatureMap, type_name
from .refusal import SwapRefused
from .report import Report

#: Settings that hold the strides of the maps, one for each.
_STRIDES = ('strides', 'feature_strides', 'featmap_strides', 'feat_strides')
_CHANNELS = 'the channels of our levels'


@dataclass(frozen=True)
class Maps:
    """What the heads read, before the swap and after it.

    Attributes:
        old: before.
        new: after.
        positions: for every old map the index of the new one in its place.
    """

    old: Sequence[FeatureMap]
    new: Sequence[FeatureMap]
    positions: Sequence[int]

    def unchanged(self) -> bool:
        """Whether heads see no difference."""
        return list(self.old) == list(self.new) and list(self.positions) == list(range(len(self.old)))

    def successor(self, index: int) -> tuple[FeatureMap, int]:
        """The map in the place of an old one, and its index."""
        position = self.positions[index]
        return self.new[position], position


def swap_heads(model: dict[str, Any], names: Sequence[str], maps: Maps, where: str, report: Report) -> None:
    """Adapt all heads of a model in place.

    Args:
        model: the model's config.
        names: the fields that may hold heads, or lists of heads.
        maps: what they read.
        where: the model's field.
        report: gains what changed.

    Raises:
        SwapRefused: where a head is not understood.
    """
    if maps.unchanged():
        return
    for name in names:
        for field, head in _listed(model.get(name), f'{where}.{name}'):
            _swap_head(head, maps, field, report)
            _set_strides(head, maps, field, report)


def swap_regions(roi_head: Any, maps: Maps, field: str, report: Report) -> None:
    """Adapt heads that read regions: to the strides and, of a backbone's single map, to its channels."""
    if not isinstance(roi_head, dict) or maps.unchanged():
        return
    _set_strides(roi_head, maps, field, report)
    if len(maps.old) != 1:
        return
    old, new = maps.old[0].channels, maps.new[0].channels
    for where, part in _dicts(roi_head, field):
        for key in ('in_channels', 'out_channels'):
            reads = where.endswith('_head') if key == 'in_channels' else where.endswith('_extractor')
            if reads and part.get(key) == old:
                report.add(f'{where}.{key}', old, new, _CHANNELS)
                part[key] = new


def _listed(heads: Any, field: str) -> Iterator[tuple[str, dict]]:
    if isinstance(heads, dict):
        yield field, heads
    elif isinstance(heads, (list, tuple)):
        for index, head in enumerate(heads):
            yield from _listed(head, f'{field}[{index}]')


def _swap_head(head: dict, maps: Maps, field: str, report: Report) -> None:
    """Adapt a head and the heads inside it."""
    if 'in_channels' in head and not _set_indexed(head, maps, field, report):
        raise SwapRefused(
            f'{field} {type_name(head)}: in_channels = {head["in_channels"]}, in_index ='
            f' {head.get("in_index", "none")} is not what it is given ({_described(maps.old)}): how it uses'
            ' its input is not known; swap it by hand'
        )
    if head.get('c1_in_channels'):
        new = maps.successor(0)[0].channels
        report.add(
            f'{field}.c1_in_channels', head['c1_in_channels'], new, 'the channels of our first level'
        )
        head['c1_in_channels'] = new
    for key, value in head.items():
        if isinstance(value, dict) and 'in_index' in value:
            _swap_head(value, maps, f'{field}.{key}', report)


def _set_indexed(head: dict, maps: Maps, field: str, report: Report) -> bool:
    """Set ``in_channels`` and ``in_index``; whether they were what the head is given."""
    channels, index = head['in_channels'], head.get('in_index')
    several = isinstance(channels, (list, tuple))
    if index is None:
        index = list(range(len(maps.old))) if several else [len(maps.old) - 1]
        index = index if not several else index[-len(channels) :]
    elif not isinstance(index, (list, tuple)):
        index = [index]
    index = [i % len(maps.old) if -len(maps.old) <= i < len(maps.old) else -1 for i in index]
    expected = [channels] if not several else list(channels)
    if -1 in index or expected != [maps.old[i].channels for i in index]:
        return False
    successors = [maps.successor(i) for i in index]
    _replace(head, 'in_channels', [m.channels for m, _ in successors], several, field, report, _CHANNELS)
    if head.get('num_convs') == 0 and head.get('channels') == sum(expected):
        channels_now = sum(m.channels for m, _ in successors)
        report.add(f'{field}.channels', head['channels'], channels_now, 'the head has no convolutions')
        head['channels'] = channels_now
    new_index = [position for _, position in successors]
    if 'in_index' in head:
        several = isinstance(head['in_index'], (list, tuple))
        present = [i % len(maps.old) for i in index]
        if present != new_index:
            _replace(
                head, 'in_index', new_index, several, field, report, 'the level in the place of the map'
            )
    elif not isinstance(channels, (list, tuple)) and new_index != [len(maps.new) - 1]:
        report.add(f'{field}.in_index', None, new_index[0], 'the level in the place of the map')
        head['in_index'] = new_index[0]
    _scale_to_stride(
        head, [(maps.old[i], m) for i, (m, _) in zip(index, successors, strict=True)], field, report
    )
    return True


def _replace(
    head: dict, key: str, values: list[int], several: bool, field: str, report: Report, why: str
) -> None:
    new = values if several else values[0]
    old = list(head[key]) if several else head[key]
    report.add(f'{field}.{key}', old, new, why)
    head[key] = type(head[key])(new) if several else new


def _scale_to_stride(
    head: dict, pairs: Sequence[tuple[FeatureMap, FeatureMap]], field: str, report: Report
) -> None:
    """Keep the reach in pixels of what a head counts in pixels of its last map."""
    old, new = pairs[-1]
    if old.stride == new.stride:
        return
    report.note(f'{field} reads a map of stride {new.stride} instead of {old.stride}')
    why = f'the same reach in pixels on a map of stride {new.stride} instead of {old.stride}'
    if isinstance(head.get('dilations'), (list, tuple)):
        dilations = [max(1, round(d * old.stride / new.stride)) for d in head['dilations']]
        report.add(f'{field}.dilations', list(head['dilations']), dilations, why)
        head['dilations'] = dilations
    for key in ('dilation', 'down_factor'):
        value = head.get(key)
        several = isinstance(value, (list, tuple))
        if several or (isinstance(value, int) and value > 1):
            reach = [max(1, round(v * old.stride / new.stride)) for v in (value if several else [value])]
            _replace(head, key, reach, several, field, report, why)
    if isinstance(head.get('mask_size'), (list, tuple)):
        sizes = [(size - 1) * old.stride // new.stride + 1 for size in head['mask_size']]
        report.add(f'{field}.mask_size', list(head['mask_size']), sizes, why)
        head['mask_size'] = tuple(sizes)


def _set_strides(head: dict, maps: Maps, field: str, report: Report) -> None:
    """Replace the strides of the old maps wherever they are listed: of all, or of the first ones."""
    old = [m.stride for m in maps.old]
    new = [maps.successor(i)[0].stride for i in range(len(old))]
    if old == new:
        return
    for where, part in _dicts(head, field):
        for key in _STRIDES:
            listed = part.get(key)
            if isinstance(listed, (list, tuple)) and listed and list(listed) == old[: len(listed)]:
                _replace(part, key, new[: len(listed)], True, where, report, 'the strides of our levels')


def _dicts(value: Any, where: str) -> Iterator[tuple[str, dict]]:
    for field, part in _listed(value, where):
        yield field, part
        for key, item in part.items():
            if isinstance(item, (Mapping, list, tuple)):
                yield from _dicts(item, f'{field}.{key}')


def _described(maps: Sequence[FeatureMap]) -> str:
    return ', '.join(f'{m.channels} channels at stride {m.stride}' for m in maps)
