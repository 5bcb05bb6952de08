"""Necks on new levels: their input channels, and other necks where one cannot take ours."""

from collections.abc import Sequence
from typing import Any

from .probe import FeatureMap, type_name
from .refusal import SwapRefused
from .report import Report

Neck = dict[str, Any]

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


def swap_neck(
    neck: Neck | list[Neck],
    old: Sequence[FeatureMap],
    new: Sequence[FeatureMap],
    where: str,
    report: Report,
) -> Neck | list[Neck] | None:
    """A neck that takes the new maps.

    Args:
        neck: its config, or a list of necks one after the other.
        old: the maps it took.
        new: the maps it is to take, one for each old one whose stride ours have.
        where: its field.
        report: gains what changed.

    Returns:
        The config, None where no neck is needed any more.

    Raises:
        SwapRefused: where it is not understood.
    """
    if isinstance(neck, list):
        first = swap_neck(neck[0], old, new, f'{where}[0]', report)
        return [*(first if isinstance(first, list) else [first]), *neck[1:]]
    neck = dict(neck)
    kind = type_name(neck).split('.')[-1]
    if kind in _RESCALING and len({m.stride for m in old}) == 1 and len(new) > 1:
        return _without_rescaling(neck, kind, new, where, report)
    if kind in _TO_FPN:
        neck = as_fpn(neck, _TO_FPN[kind], where, report)
    if len(new) < len(old):
        return _with_coarser_levels(neck, old, new, where, report)
    _set_in_channels(neck, old, new, where, report)
    if kind == 'SSDNeck':
        _set_first_out_channels(neck, new, where, report)
    return neck


def _without_rescaling(
    neck: Neck, kind: str, new: Sequence[FeatureMap], where: str, report: Report
) -> Neck | None:
    why = 'our levels are a pyramid already'
    if kind == 'Feature2Pyramid':
        report.add(where, neck, None, why)
        return None
    scales = [1.0] * len(new)
    report.add(f'{where}.scales', neck.get('scales', (0.5, 1, 2, 4)), scales, why)
    channels = [m.channels for m in new]
    report.add(f'{where}.in_channels', neck['in_channels'], channels, 'the channels of our levels')
    return neck | dict(scales=scales, in_channels=channels)


def as_fpn(neck: Neck, why: str, where: str, report: Report) -> Neck:
    """An FPN with the settings that another neck shares with it."""
    fpn = dict(type='FPN', **{key: neck[key] for key in _FPN if key in neck})
    fpn.setdefault('num_outs', 5)
    report.add(where, neck, fpn, why)
    return fpn


def _set_in_channels(
    neck: Neck, old: Sequence[FeatureMap], new: Sequence[FeatureMap], where: str, report: Report
) -> None:
    if 'in_channels' not in neck:
        return
    present = neck['in_channels']
    old_channels, new_channels = [m.channels for m in old], [m.channels for m in new]
    if isinstance(present, int):
        matches, replacement = present == old_channels[-1], new_channels[-1]
    else:
        used = len(present)
        from_coarse = list(present) == old_channels[::-1] != old_channels
        if from_coarse:
            matches, replacement = True, new_channels[::-1]
        else:  # some necks leave out the finest maps
            matches, replacement = list(present) == old_channels[-used:], new_channels[-used:]
    if not matches:
        raise SwapRefused(
            f'{where}.in_channels = {present} is not what the backbone gives ({old_channels}): how'
            f' {type_name(neck)} uses its input is not known; swap it by hand'
        )
    report.add(f'{where}.in_channels', present, replacement, 'the channels of our levels')
    neck['in_channels'] = replacement if isinstance(present, int) else type(present)(replacement)


def _set_first_out_channels(neck: Neck, new: Sequence[FeatureMap], where: str, report: Report) -> None:
    channels = [*(m.channels for m in new), *neck['out_channels'][len(new) :]]
    report.add(f'{where}.out_channels', neck['out_channels'], channels, 'it passes the first maps on')
    neck['out_channels'] = type(neck['out_channels'])(channels)


def _with_coarser_levels(
    neck: Neck, old: Sequence[FeatureMap], new: Sequence[FeatureMap], where: str, report: Report
) -> list[Neck]:
    """Convolutions before the neck make the maps that are coarser than ours."""
    channels = neck.get('out_channels', new[-1].channels)
    if not isinstance(channels, int) or 'in_channels' not in neck:
        raise SwapRefused(
            f'{where} {type_name(neck)} takes {len(old)} maps up to stride {old[-1].stride}, coarser than'
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
    neck = neck | dict(in_channels=[channels] * len(old))
    report.add(
        where,
        neck,
        [mapper, neck],
        f'convolutions make the maps of stride {old[-1].stride}, which ours end before',
    )
    return [mapper, neck]


def pyramid(new: Sequence[FeatureMap], scope: str | None) -> Neck:
    """A feature pyramid on our levels."""
    fpn = dict(type='FPN', in_channels=[m.channels for m in new], out_channels=256, num_outs=len(new))
    return fpn if scope is None else fpn | dict(_scope_=scope)
