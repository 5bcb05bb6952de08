"""Heads on new maps: input channels, indices, and settings that depend on strides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmnat.config_tree import walk

from .editor import ConfigEditor
from .probe import FeatureMap, type_name
from .refusal import SwapRefused

#: Settings that list the strides of the maps.
_STRIDES = ('strides', 'feature_strides', 'featmap_strides', 'feat_strides')
_CHANNELS = 'the channels of our levels'
_LEVEL = 'the level in the place of the map'


@dataclass(frozen=True)
class Maps:
    """What the heads read, before the swap and after it.

    Attributes:
        old: The maps before.
        new: The maps after.
        positions: For every old map, the index of the new one that replaces it.
    """

    old: Sequence[FeatureMap]
    new: Sequence[FeatureMap]
    positions: Sequence[int]

    def unchanged(self) -> bool:
        """Whether heads see no difference."""
        return list(self.old) == list(self.new) and list(self.positions) == list(range(len(self.old)))

    def successor(self, index: int) -> tuple[FeatureMap, int]:
        """The map that replaces an old one, and its index."""
        position = self.positions[index]
        return self.new[position], position


def swap_heads(editor: ConfigEditor, model: str, names: Sequence[str], maps: Maps) -> None:
    """Adapt all heads of a model.

    Args:
        editor: Holds the config.
        model: The model's path.
        names: The fields that may hold a head or a list of heads.
        maps: What the heads read.

    Raises:
        SwapRefused: If it is not known how a head uses its input.
    """
    if maps.unchanged():
        return
    for name in names:
        for path in _head_paths(editor.get(f'{model}.{name}'), f'{model}.{name}'):
            _swap_head(editor, path, maps)
            _set_strides(editor, path, maps)


def swap_regions(editor: ConfigEditor, path: str, maps: Maps) -> None:
    """Adapt heads that read regions of the maps: their strides and, on a single map, their channels.

    Args:
        editor: Holds the config.
        path: The field ``roi_head`` of a model, which may be missing.
        maps: What the heads read.
    """
    if not isinstance(editor.get(path), dict) or maps.unchanged():
        return
    _set_strides(editor, path, maps)
    if len(maps.old) != 1:
        return
    old, new = maps.old[0].channels, maps.new[0].channels
    for part_path, part in walk(editor.get(path), path):
        for key, reader in (('in_channels', '_head'), ('out_channels', '_extractor')):
            if part_path.endswith(reader) and part.get(key) == old:
                editor.set(f'{part_path}.{key}', new, _CHANNELS)


def _head_paths(heads: Any, path: str) -> Iterator[str]:
    if isinstance(heads, dict):
        yield path
    elif isinstance(heads, (list, tuple)):
        for index, head in enumerate(heads):
            yield from _head_paths(head, f'{path}[{index}]')


def _swap_head(editor: ConfigEditor, path: str, maps: Maps) -> None:
    """Adapt a head and the heads inside it."""
    head = editor.get(path)
    if 'in_channels' in head and not _set_inputs(editor, path, maps):
        raise SwapRefused(
            f'{path} {type_name(head)}: in_channels = {head["in_channels"]}, in_index ='
            f' {head.get("in_index", "none")} is not what it is given ({_described(maps.old)}): how it uses'
            ' its input is not known; swap it by hand'
        )
    if head.get('c1_in_channels'):
        new = maps.successor(0)[0].channels
        editor.set(f'{path}.c1_in_channels', new, 'the channels of our first level')
    for key, value in head.items():
        if isinstance(value, dict) and 'in_index' in value:
            _swap_head(editor, f'{path}.{key}', maps)


def _set_inputs(editor: ConfigEditor, path: str, maps: Maps) -> bool:
    """Set ``in_channels`` and ``in_index`` of a head; return whether they were what the head is given."""
    head = editor.get(path)
    channels, index = head['in_channels'], head.get('in_index')
    several = isinstance(channels, (list, tuple))
    if index is None:
        index = list(range(len(maps.old)))[-len(channels) if several else -1 :]
    elif not isinstance(index, (list, tuple)):
        index = [index]
    index = [i % len(maps.old) if -len(maps.old) <= i < len(maps.old) else -1 for i in index]
    expected = list(channels) if several else [channels]
    if -1 in index or expected != [maps.old[i].channels for i in index]:
        return False
    successors = [maps.successor(i) for i in index]
    new_channels, new_index = [m.channels for m, _ in successors], [position for _, position in successors]
    editor.set(f'{path}.in_channels', _like(channels, new_channels), _CHANNELS)
    if head.get('num_convs') == 0 and head.get('channels') == sum(expected):
        editor.set(f'{path}.channels', sum(new_channels), 'the head has no convolutions')
    if 'in_index' in head:
        if index != new_index:
            editor.set(f'{path}.in_index', _like(head['in_index'], new_index), _LEVEL)
    elif not several and new_index != [len(maps.new) - 1]:
        editor.set(f'{path}.in_index', new_index[0], _LEVEL)
    _scale_to_stride(editor, path, maps.old[index[-1]].stride, successors[-1][0].stride)
    return True


def _like(present: Any, values: list[int]) -> Any:
    """Values in the form of the present one: a list, a tuple, or a single value."""
    return type(present)(values) if isinstance(present, (list, tuple)) else values[0]


def _scale_to_stride(editor: ConfigEditor, path: str, old: int, new: int) -> None:
    """Keep what a head reaches in the image if its last map gets another stride."""
    if old == new:
        return
    editor.report.note(f'{path} reads a map of stride {new} instead of {old}')
    why = f'the same reach in pixels on a map of stride {new} instead of {old}'
    head = editor.get(path)
    for key in ('dilations', 'dilation', 'down_factor'):
        value = head.get(key)
        several = isinstance(value, (list, tuple))
        if several or (key != 'dilations' and isinstance(value, int) and value > 1):
            reach = [max(1, round(v * old / new)) for v in (value if several else [value])]
            editor.set(f'{path}.{key}', _like(value, reach), why)
    if isinstance(head.get('mask_size'), (list, tuple)):
        sizes = [(size - 1) * old // new + 1 for size in head['mask_size']]
        editor.set(f'{path}.mask_size', _like(head['mask_size'], sizes), why)


def _set_strides(editor: ConfigEditor, path: str, maps: Maps) -> None:
    """Replace the strides of the old maps in all lists of them: of all maps, or of the first ones."""
    old = [m.stride for m in maps.old]
    new = [maps.successor(i)[0].stride for i in range(len(old))]
    if old == new:
        return
    for part_path, part in walk(editor.get(path), path):
        for key in _STRIDES:
            listed = part.get(key)
            if isinstance(listed, (list, tuple)) and listed and list(listed) == old[: len(listed)]:
                strides = _like(listed, new[: len(listed)])
                editor.set(f'{part_path}.{key}', strides, 'the strides of our levels')


def _described(maps: Sequence[FeatureMap]) -> str:
    return ', '.join(f'{m.channels} channels at stride {m.stride}' for m in maps)
