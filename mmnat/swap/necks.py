"""Necks on new levels: their input channels, and other necks if one cannot read our levels."""

from collections.abc import Sequence
from typing import Any

from .editor import ConfigEditor
from .probe import FeatureMap, type_name
from .refusal import SwapRefused

#: Arguments of FPN that other necks have under the same names.
_FPN = (
    '_scope_',
    'in_channels',
    'out_channels',
    'num_outs',
    'start_level',
    'end_level',
    'add_extra_convs',
    'conv_cfg',
    'norm_cfg',
)
#: Necks that an FPN replaces, and why.
_TO_FPN = {
    'HRFPN': 'it joins maps that HRNet keeps in parallel; ours come one after the other',
}
#: Necks that make a pyramid of maps of one stride.
_RESCALING = ('Feature2Pyramid', 'MultiLevelNeck')
_CHANNELS = 'the channels of our levels'


def swap_neck(
    editor: ConfigEditor, path: str, old: Sequence[FeatureMap], new: Sequence[FeatureMap]
) -> None:
    """Adapt a neck, or the first one of a list, to new maps; remove it if none is needed any more.

    Args:
        editor: Holds the config.
        path: The neck's path.
        old: The maps that it read.
        new: The maps that it is to read, one for each old one whose stride our levels have.

    Raises:
        SwapRefused: If it is not known how the neck uses its input.
    """
    necks = editor.get(path)
    following = necks[1:] if isinstance(necks, list) else []
    first = f'{path}[0]' if isinstance(necks, list) else path
    kind = type_name(editor.get(first)).split('.')[-1]
    if kind in _RESCALING and len({m.stride for m in old}) == 1 and len(new) > 1:
        _stop_rescaling(editor, first, kind, new)
        return
    if kind in _TO_FPN:
        replace_by_fpn(editor, first, _TO_FPN[kind])
    if len(new) < len(old):
        why = f'convolutions make the maps of stride {old[-1].stride}, which ours end before'
        editor.set(path, [*_with_coarser_levels(editor.get(first), first, old, new), *following], why)
        return
    _set_in_channels(editor, first, old, new)
    if kind == 'SSDNeck':
        _set_first_out_channels(editor, first, new)


def replace_by_fpn(editor: ConfigEditor, path: str, why: str) -> None:
    """Replace a neck by an FPN, with the settings that both have.

    Args:
        editor: Holds the config.
        path: The neck's path.
        why: The reason.
    """
    neck = editor.get(path)
    fpn = dict(type='FPN', **{key: neck[key] for key in _FPN if key in neck})
    fpn.setdefault('num_outs', 5)
    editor.set(path, fpn, why)


def pyramid(new: Sequence[FeatureMap], scope: str | None) -> dict[str, Any]:
    """The config of a feature pyramid on our levels."""
    fpn = dict(type='FPN', in_channels=[m.channels for m in new], out_channels=256, num_outs=len(new))
    return fpn if scope is None else fpn | dict(_scope_=scope)


def _stop_rescaling(editor: ConfigEditor, path: str, kind: str, new: Sequence[FeatureMap]) -> None:
    why = 'our levels are a pyramid already'
    if kind == 'Feature2Pyramid':
        editor.remove(path, why)
        return
    scales = [1.0] * len(new)
    present = editor.get(f'{path}.scales', (0.5, 1, 2, 4))
    editor.set(f'{path}.scales', scales, why, shown=(present, scales))
    editor.set(f'{path}.in_channels', [m.channels for m in new], _CHANNELS)


def _set_in_channels(
    editor: ConfigEditor, path: str, old: Sequence[FeatureMap], new: Sequence[FeatureMap]
) -> None:
    neck = editor.get(path)
    if 'in_channels' not in neck:
        return
    present = neck['in_channels']
    old_channels, new_channels = [m.channels for m in old], [m.channels for m in new]
    if isinstance(present, int):
        matches, replacement = present == old_channels[-1], new_channels[-1]
    elif list(present) == old_channels[::-1] != old_channels:  # from coarse to fine
        matches, replacement = True, type(present)(new_channels[::-1])
    else:  # some necks leave out the finest maps
        used = len(present)
        matches = list(present) == old_channels[-used:]
        replacement = type(present)(new_channels[-used:])
    if not matches:
        raise SwapRefused(
            f'{path}.in_channels = {present} is not what the backbone gives ({old_channels}): how'
            f' {type_name(neck)} uses its input is not known; swap it by hand'
        )
    editor.set(f'{path}.in_channels', replacement, _CHANNELS)


def _set_first_out_channels(editor: ConfigEditor, path: str, new: Sequence[FeatureMap]) -> None:
    present = editor.get(f'{path}.out_channels')
    channels = type(present)([*(m.channels for m in new), *present[len(new) :]])
    editor.set(f'{path}.out_channels', channels, 'it passes the first maps on')


def _with_coarser_levels(
    neck: dict[str, Any], path: str, old: Sequence[FeatureMap], new: Sequence[FeatureMap]
) -> list[dict[str, Any]]:
    """A neck after convolutions that make the maps coarser than our levels."""
    channels = neck.get('out_channels', new[-1].channels)
    if not isinstance(channels, int) or 'in_channels' not in neck:
        raise SwapRefused(
            f'{path} {type_name(neck)} takes {len(old)} maps up to stride {old[-1].stride}, coarser than'
            ' our 32; swap it by hand'
        )
    mapper = dict(
        type='ChannelMapper',
        in_channels=[m.channels for m in new],
        out_channels=channels,
        kernel_size=1,
        act_cfg=None,
        num_outs=len(old),
    )
    if '_scope_' in neck:
        mapper['_scope_'] = neck['_scope_']
    return [mapper, neck | dict(in_channels=[channels] * len(old))]
