"""The statistics and the order of the channels that the pretrained weights were trained with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .report import Report

MEAN = [123.675, 116.28, 103.53]
STD = [58.395, 57.12, 57.375]

_WHY = 'the statistics of our pretrained weights, RGB'


def set_statistics(cfg: dict[str, Any], backbone: Mapping[str, Any], report: Report) -> None:
    """Set mean, standard deviation and order of channels wherever a config has them.

    They stay where a backbone starts from scratch, and for images of other than 3 channels.

    Args:
        cfg: the config, changed in place.
        backbone: the new backbone's part of it.
        report: gains what changed.
    """
    image_channels = backbone.get('in_channels', 3)
    if not backbone.get('init_cfg'):
        report.note('the backbone starts from scratch: statistics and order of channels stay as they are')
        return
    if image_channels != 3:
        report.note(
            f'images of {image_channels} channels: their statistics and order were left as they are'
        )
        return
    transforms = [
        (where, part)
        for key, value in cfg.items()
        if key != 'model'
        for where, part in _dicts(value, key)
        if 'mean' in part and ('std' in part or 'to_rgb' in part)
    ]
    normalised_in_pipeline = any('std' in part and 'to_rgb' in part for _, part in transforms)
    for where, part in transforms:
        if 'to_rgb' in part:
            _set(part, where, dict(mean=MEAN, std=STD, to_rgb=True), report)
    preprocessors = [
        (where, part)
        for where, part in _dicts(cfg.get('model', {}), 'model')
        if _is_preprocessor(where, part)
    ]
    if 'data_preprocessor' in cfg and isinstance(cfg['data_preprocessor'], Mapping):
        preprocessors.append(('data_preprocessor', cfg['data_preprocessor']))
    for where, part in preprocessors:
        if 'mean' in part or not normalised_in_pipeline:
            _set_preprocessor(part, where, report)


def _is_preprocessor(where: str, part: Mapping) -> bool:
    kind = str(part.get('type', '')).lower()
    in_other_network = any(name in where for name in ('.reid.', '.teacher'))
    nested = isinstance(part.get('data_preprocessor'), Mapping)
    return kind.endswith('datapreprocessor') and not in_other_network and not nested


def _set_preprocessor(part: dict, where: str, report: Report) -> None:
    part.pop('_scope_', None) if 'type' not in part else None
    if part.pop('rgb_to_bgr', False):
        report.add(f'{where}.rgb_to_bgr', True, None, _WHY)
    part.setdefault('mean', None)
    part.setdefault('std', None)
    part.setdefault('bgr_to_rgb', False)
    _set(part, where, dict(mean=MEAN, std=STD, bgr_to_rgb=True), report)


def _set(part: dict, where: str, values: Mapping[str, Any], report: Report) -> None:
    for key, value in values.items():
        if key in part:
            old = list(part[key]) if isinstance(part[key], Sequence) else part[key]
            report.add(f'{where}.{key}', old, value, _WHY)
            part[key] = list(value) if isinstance(value, list) else value


def _dicts(value: Any, where: str) -> Iterator[tuple[str, dict]]:
    if isinstance(value, dict):
        yield where, value
        for key, item in list(value.items()):
            yield from _dicts(item, f'{where}.{key}')
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _dicts(item, f'{where}[{index}]')
