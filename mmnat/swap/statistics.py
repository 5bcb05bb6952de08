"""The statistics and the order of the channels that the pretrained weights were trained with."""

from collections.abc import Mapping
from typing import Any

from mmnat.config_tree import walk

from .editor import ConfigEditor

MEAN = [123.675, 116.28, 103.53]
STD = [58.395, 57.12, 57.375]

_WHY = 'the statistics of our pretrained weights, RGB'


def set_statistics(editor: ConfigEditor, backbone: Mapping[str, Any]) -> None:
    """Set mean, standard deviation and order of channels wherever a config has them.

    They stay if the backbone starts from scratch, and for images of other than 3 channels.

    Args:
        editor: Holds the config.
        backbone: The config of the new backbone.
    """
    image_channels = backbone.get('in_channels', 3)
    if not backbone.get('init_cfg'):
        editor.report.note(
            'the backbone starts from scratch: statistics and order of channels stay as they are'
        )
        return
    if image_channels != 3:
        editor.report.note(
            f'images of {image_channels} channels: their statistics and order were left as they are'
        )
        return
    transforms = [
        (path, part)
        for key, value in editor.config.items()
        if key != 'model'
        for path, part in walk(value, key)
        if 'mean' in part and ('std' in part or 'to_rgb' in part)
    ]
    normalized_in_pipeline = any('std' in part and 'to_rgb' in part for _, part in transforms)
    for path, part in transforms:
        if 'to_rgb' in part:
            _set_transform(editor, path)
    for path in _preprocessors(editor):
        if 'mean' in editor.get(path) or not normalized_in_pipeline:
            _set_preprocessor(editor, path)


def _preprocessors(editor: ConfigEditor) -> list[str]:
    paths = [
        path for path, part in walk(editor.config.get('model', {}), 'model') if _is_preprocessor(path, part)
    ]
    if isinstance(editor.config.get('data_preprocessor'), dict):
        paths.append('data_preprocessor')
    return paths


def _is_preprocessor(path: str, part: Mapping[str, Any]) -> bool:
    kind = str(part.get('type', '')).lower()
    in_other_network = any(name in path for name in ('.reid.', '.teacher'))
    nested = isinstance(part.get('data_preprocessor'), Mapping)
    return kind.endswith('datapreprocessor') and not in_other_network and not nested


def _set_transform(editor: ConfigEditor, path: str) -> None:
    for key, value in (('mean', [*MEAN]), ('std', [*STD]), ('to_rgb', True)):
        if key in editor.get(path):
            editor.set(f'{path}.{key}', value, _WHY)


def _set_preprocessor(editor: ConfigEditor, path: str) -> None:
    part = editor.get(path)
    if 'type' not in part:
        part.pop('_scope_', None)
    if part.get('rgb_to_bgr'):
        editor.remove(f'{path}.rgb_to_bgr', _WHY)
    editor.set(f'{path}.mean', [*MEAN], _WHY)
    editor.set(f'{path}.std', [*STD], _WHY)
    part.setdefault('bgr_to_rgb', False)
    editor.set(f'{path}.bgr_to_rgb', True, _WHY)
