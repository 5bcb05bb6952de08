"""The swap of a config's backbone, and of all that depended on it."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from mmnat.config_tree import walk

from . import levels, variants
from .editor import ConfigEditor
from .framework import Framework
from .heads import Maps, swap_heads, swap_regions
from .necks import pyramid, swap_neck
from .optimizer import check_mode, set_optimizer
from .place import Place, find_backbone
from .plain import plain
from .probe import FeatureMap, OperatorMissing, build_alone, neck_maps, probe_backbone, type_name
from .refusal import SwapRefused
from .report import Report
from .statistics import set_statistics

#: Arguments that the old backbone and ours share, with the same meaning.
_KEPT = ('in_channels', 'with_cp')


def swap(
    cfg: Config | Mapping[str, Any],
    framework: Framework,
    backbone: str | Mapping[str, Any],
    pretrained: str | None = variants.PUBLISHED,
    optimizer: str = 'keep',
) -> tuple[Config, Report]:
    """Put one of our backbones into a config.

    Args:
        cfg: The config, which is not changed.
        framework: The config's framework.
        backbone: See :func:`mmnat.swap.variants.backbone_config`.
        pretrained: See there.
        optimizer: 'keep' for the config's own optimizer, 'nat' for the published one.

    Returns:
        The new config, and what was changed.

    Raises:
        SwapRefused: If the result would make no sense.
    """
    check_mode(optimizer)
    settings = variants.backbone_config(backbone, framework.task, pretrained)
    editor = ConfigEditor(plain(cfg))
    report = editor.report
    place = find_backbone(editor.config)
    _refuse(place, framework)
    without_neck = not place.model.get('neck')
    framework.prepare(editor, place.path)
    added_neck = without_neck and bool(place.model.get('neck'))
    if isinstance(backbone, str) and pretrained == variants.PUBLISHED:
        _check_published(place.model['backbone'], settings, report)
    built = _swap_model(editor, place, framework, settings, added_neck)
    changes = len(report.changes)
    set_statistics(editor, place.model['backbone'])
    renormalized = ', and gets images normalized for ours' if len(report.changes) > changes else ''
    set_optimizer(editor, optimizer, framework.optimizer, built)
    _remove_weights(editor, place)
    _import(editor, framework.package)
    for other in place.others:
        report.note(f'{other} keeps its own backbone{renormalized}')
    return Config(editor.config, filename=getattr(cfg, 'filename', None)), report


def swap_and_log(
    cfg: Config,
    framework: Framework,
    backbone: str | Mapping[str, Any],
    pretrained: str | None = variants.PUBLISHED,
    optimizer: str = 'keep',
) -> Config:
    """Put one of our backbones into a config, and log what was changed.

    Args:
        cfg: See :func:`swap`.
        framework: See there.
        backbone: See there.
        pretrained: See there.
        optimizer: See there.

    Returns:
        The new config.

    Raises:
        SwapRefused: If the result would make no sense.
    """
    new, report = swap(cfg, framework, backbone, pretrained, optimizer)
    print_log(f'backbone swapped:\n{report}', logger='current')
    return new


def _refuse(place: Place, framework: Framework) -> None:
    kind = type_name(place.model).split('.')[-1]
    if kind in framework.refusals:
        raise SwapRefused(f'{place.path} {kind} {framework.refusals[kind]}')
    for field in ('backbone', 'neck', *framework.heads, 'roi_head'):
        parts = place.model.get(field)
        for part in parts if isinstance(parts, (list, tuple)) else [parts]:
            kind = type_name(part).split('.')[-1] if isinstance(part, Mapping) else ''
            if kind in framework.refusals:
                raise SwapRefused(f'{place.path}.{field} {kind} {framework.refusals[kind]}')


def _swap_model(
    editor: ConfigEditor, place: Place, framework: Framework, settings: dict[str, Any], added_neck: bool
) -> nn.Module:
    """Swap backbone, neck and heads.

    Args:
        editor: Holds the config.
        place: Where the backbone is.
        framework: The config's framework.
        settings: The config of the new backbone.
        added_neck: Whether the present neck was added for our levels, so that no head has read it.

    Returns:
        The new backbone.
    """
    model, path = place.model, place.path
    present = model['backbone']
    if present['type'].split('.')[-1] in variants.BACKBONES:
        editor.report.note(f'{path}.backbone was one of ours already')
    old, trained = probe_backbone(framework.registry, present)

    settings = _take_over(editor, f'{path}.backbone', trained, settings)
    whole = present['type'].split('.')[-1] in framework.decoders or not levels.is_pyramid(old)
    wanted = _levels(old, whole, framework)
    add_pyramid = whole and not model.get('neck')
    out_indices = list(range(len(levels.STRIDES))) if add_pyramid else sorted(set(wanted))
    settings['out_indices'] = out_indices
    built = variants.build(settings)
    new = [FeatureMap(built.num_features[i], levels.STRIDES[i]) for i in out_indices]
    editor.set(f'{path}.backbone', settings, f'levels {out_indices} in the place of its outputs')
    maps = Maps(old, new, [out_indices.index(level) for level in wanted])
    if add_pyramid:
        maps = _add_pyramid(editor, place, maps)
    elif model.get('neck'):
        maps = _swap_neck(editor, place, framework, maps)
        maps = Maps(maps.new, maps.new, maps.positions) if added_neck else maps
    elif len(wanted) < len(old):
        raise SwapRefused(f'{path} reads a map of stride {old[-1].stride}, coarser than our 32; add a neck')
    _swap_heads(editor, place, framework, maps)
    return built


def _swap_heads(editor: ConfigEditor, place: Place, framework: Framework, maps: Maps) -> None:
    report = editor.report
    said = len(report.changes) + len(report.notes)
    swap_heads(editor, place.path, framework.heads, maps)
    swap_regions(editor, f'{place.path}.roi_head', maps)
    # If channels happen to be equal, a note still says that the stride is not.
    if not maps.unchanged() and len(report.changes) + len(report.notes) == said:
        raise SwapRefused(
            f'none of the heads of {place.path} {type_name(place.model)} says what it reads of the'
            ' backbone; swap it by hand'
        )


def _levels(old: Sequence[FeatureMap], whole: bool, framework: Framework) -> list[int]:
    if whole:
        return [levels.nearest_level(m.stride) for m in old]
    inside = [m for m in old if m.stride <= levels.STRIDES[-1]] or old
    if len(inside) > len(levels.STRIDES):
        raise SwapRefused(f'the backbone gives {len(inside)} maps, ours at most {len(levels.STRIDES)}')
    return levels.assign(inside, framework.single_map_uses_coarsest)


def _check_published(present: Mapping[str, Any], settings: dict[str, Any], report: Report) -> None:
    """Do without the published weights if they do not fit the images."""
    channels = present.get('in_channels', 3)
    if isinstance(channels, int) and channels != 3:
        del settings['init_cfg']
        report.note('the published weights take images of 3 channels: the backbone starts from scratch')


def _take_over(editor: ConfigEditor, path: str, trained: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """Keep what the old backbone says of the training and the images; report what of it goes."""
    settings = dict(settings)
    present = editor.get(path)
    for key in _KEPT:
        if isinstance(present.get(key), int) and key not in settings and present[key] not in (False, 3):
            settings[key] = present[key]
            editor.report.note(f'{path}.{key} = {present[key]} is kept')
    frozen = present.get('frozen_stages', -1)
    if 'frozen_stages' in settings:
        given = settings['frozen_stages']
        editor.set(f'{path}.frozen_stages', given, 'as given', shown=(frozen, given))
    elif not trained and settings.get('init_cfg'):
        settings['frozen_stages'] = len(levels.STRIDES)
        editor.report.note(f'{path} stays frozen as a whole')
    elif isinstance(frozen, int) and frozen > -1:
        why = 'ours were published trained as a whole' if trained else 'ours starts from scratch'
        editor.remove(f'{path}.frozen_stages', why)
    if present.get('norm_eval'):
        editor.remove(f'{path}.norm_eval', 'ours have no batch statistics')
    return settings


def _add_pyramid(editor: ConfigEditor, place: Place, maps: Maps) -> Maps:
    """Add a feature pyramid of all our levels for heads that read a network with its own decoder."""
    neck = pyramid(maps.new, place.model['backbone'].get('_scope_'))
    editor.set(f'{place.path}.neck', neck, 'the old backbone had its own decoder; ours has none')
    outputs = [FeatureMap(neck['out_channels'], m.stride) for m in maps.new]
    return Maps(maps.old, outputs, maps.positions)


def _swap_neck(editor: ConfigEditor, place: Place, framework: Framework, maps: Maps) -> Maps:
    """Swap the neck; return what the heads read of it before and after."""
    path = f'{place.path}.neck'
    present = build_alone(framework.registry, editor.get(path), 'present neck')
    inputs = [maps.new[position] for position in maps.positions]
    swap_neck(editor, path, maps.old, inputs)
    try:
        before = neck_maps(present, maps.old)
    except OperatorMissing:
        editor.report.note(f'{path} has no kernels here; its outputs are taken to be as before')
        return Maps((), (), ())
    neck = editor.get(path)
    if neck is None:
        return Maps(before, maps.new, maps.positions)
    after = neck_maps(build_alone(framework.registry, neck, 'neck on our levels'), maps.new)
    if len(after) != len(before):
        raise SwapRefused(
            f'{path} {type_name(neck)} gives {len(after)} maps on our levels, {len(before)} before;'
            ' swap it by hand'
        )
    return Maps(before, after, range(len(before)))


def _remove_weights(editor: ConfigEditor, place: Place) -> None:
    """Remove checkpoints of whole models, which belong to the old backbone."""
    why = 'weights for the old backbone'
    for model in dict.fromkeys(('model', place.path)):
        for path in (f'{model}.pretrained', f'{model}.init_cfg'):
            if editor.get(path):
                editor.remove(path, why)
    for path, off in (('load_from', None), ('resume', False)):
        if editor.get(path):
            editor.set(path, off, why)
    work_dir = editor.get('work_dir')
    if work_dir:
        editor.report.note(
            f'work_dir = {work_dir} is kept; give another if the old model was trained in it'
        )


def _import(editor: ConfigEditor, package: str) -> None:
    """Have the config import the package that registers the backbone."""
    present = editor.get('custom_imports.imports') or []
    names = [present] if isinstance(present, str) else list(present)
    if 'mmpretrain.models' in names and not _uses_mmpretrain(editor.config):
        names.remove('mmpretrain.models')
    if package not in names:
        names.append(package)
    editor.set('custom_imports.imports', names, 'registers the backbone')


def _uses_mmpretrain(config: Mapping[str, Any]) -> bool:
    kinds = (kind for _, part in walk(config) for kind in (part.get('type'), part.get('_scope_')))
    return any(isinstance(kind, str) and kind.split('.')[0] == 'mmpretrain' for kind in kinds)
