"""The swap of a config's backbone, and of all that depended on it."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from torch import nn

from . import levels, variants
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

#: Arguments of an old backbone that ours has too, with the same meaning.
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
        cfg: the config, left as it is.
        framework: whose config it is.
        backbone: see :func:`mmnat.swap.variants.backbone_config`.
        pretrained: see there.
        optimizer: 'keep' for the config's own, 'nat' for the published one.

    Returns:
        The new config, and what was changed.

    Raises:
        SwapRefused: where the result would make no sense.
    """
    check_mode(optimizer)
    settings = variants.backbone_config(backbone, framework.task, pretrained)
    new = plain(cfg)
    report = Report()
    place = find_backbone(new)
    _refuse(place, framework)
    without_neck = not place.model.get('neck')
    framework.prepare(place.model, place.field, report)
    added_neck = without_neck and bool(place.model.get('neck'))
    if isinstance(backbone, str) and pretrained == variants.PUBLISHED:
        _check_published(place.model['backbone'], settings, report)
    built = _swap_model(place, framework, settings, added_neck, report)
    changes = len(report.changes)
    set_statistics(new, place.model['backbone'], report)
    renormalised = ', and gets images normalised for ours' if len(report.changes) > changes else ''
    set_optimizer(new, optimizer, framework.optimizer, built, report)
    _drop_weights(new, place, report)
    _import(new, framework.package, report)
    for other in place.others:
        report.note(f'{other} keeps its own backbone{renormalised}')
    return Config(new, filename=getattr(cfg, 'filename', None)), report


def _refuse(place: Place, framework: Framework) -> None:
    kind = type_name(place.model).split('.')[-1]
    if kind in framework.refusals:
        raise SwapRefused(f'{place.field} {kind} {framework.refusals[kind]}')
    for field in ('backbone', 'neck', *framework.heads, 'roi_head'):
        parts = place.model.get(field)
        for part in parts if isinstance(parts, (list, tuple)) else [parts]:
            kind = type_name(part).split('.')[-1] if isinstance(part, Mapping) else None
            if kind in framework.refusals:
                raise SwapRefused(f'{place.field}.{field} {kind} {framework.refusals[kind]}')


def _swap_model(
    place: Place, framework: Framework, settings: dict[str, Any], added_neck: bool, report: Report
) -> nn.Module:
    """Swap backbone, neck (``added_neck`` if for our levels only) and heads, and give the new backbone."""
    model, where = place.model, place.field
    present = model['backbone']
    if present['type'].split('.')[-1] in variants.BACKBONES:
        report.note(f'{where}.backbone was one of ours already')
    old, trained = probe_backbone(framework.registry, present)

    settings = _take_over(present, trained, settings, where, report)
    whole = present['type'].split('.')[-1] in framework.decoders or not levels.is_pyramid(old)
    wanted = _levels(old, whole, framework)
    add_pyramid = whole and not model.get('neck')
    out_indices = list(range(len(levels.STRIDES))) if add_pyramid else sorted(set(wanted))
    settings['out_indices'] = out_indices
    built = variants.build(settings)
    new = [FeatureMap(built.num_features[i], levels.STRIDES[i]) for i in out_indices]
    report.add(f'{where}.backbone', present, settings, f'levels {out_indices} in the place of its outputs')
    model['backbone'] = settings
    maps = Maps(old, new, [out_indices.index(level) for level in wanted])
    if add_pyramid:
        maps = _add_pyramid(model, maps, where, report)
    elif model.get('neck'):
        maps = _swap_neck(model, framework, maps, where, report)
        maps = Maps(maps.new, maps.new, maps.positions) if added_neck else maps
    elif len(wanted) < len(old):
        raise SwapRefused(
            f'{where} reads a map of stride {old[-1].stride}, coarser than our 32; add a neck'
        )
    _swap_heads(model, framework, maps, where, report)
    return built


def _swap_heads(
    model: dict[str, Any], framework: Framework, maps: Maps, where: str, report: Report
) -> None:
    said = len(report.changes) + len(report.notes)
    swap_heads(model, framework.heads, maps, where, report)
    swap_regions(model.get('roi_head'), maps, f'{where}.roi_head', report)
    # Channels may happen to be equal; then a note says that the stride is not.
    if not maps.unchanged() and len(report.changes) + len(report.notes) == said:
        raise SwapRefused(
            f'none of the heads of {where} {type_name(model)} says what it reads of the backbone; swap it'
            ' by hand'
        )


def _levels(old: Sequence[FeatureMap], whole: bool, framework: Framework) -> list[int]:
    if whole:
        return [levels.nearest_level(m.stride) for m in old]
    inside = [m for m in old if m.stride <= levels.STRIDES[-1]] or old
    if len(inside) > len(levels.STRIDES):
        raise SwapRefused(f'the backbone gives {len(inside)} maps, ours at most {len(levels.STRIDES)}')
    return levels.assign(inside, framework.deepest)


def _check_published(present: Mapping, settings: dict[str, Any], report: Report) -> None:
    """Do without the published weights where they do not fit the images."""
    channels = present.get('in_channels', 3)
    if isinstance(channels, int) and channels != 3:
        del settings['init_cfg']
        report.note('the published weights take images of 3 channels: the backbone starts from scratch')


def _take_over(
    present: Mapping, trained: bool, settings: dict[str, Any], where: str, report: Report
) -> dict[str, Any]:
    """Settings of the old backbone that say how to train or what images are like, not what it is."""
    settings = dict(settings)
    for key in _KEPT:
        if isinstance(present.get(key), int) and key not in settings and present[key] not in (False, 3):
            settings[key] = present[key]
            report.note(f'{where}.backbone.{key} = {present[key]} is kept')
    frozen = present.get('frozen_stages', -1)
    if 'frozen_stages' in settings:
        report.add(f'{where}.backbone.frozen_stages', frozen, settings['frozen_stages'], 'as given')
    elif not trained and settings.get('init_cfg'):
        settings['frozen_stages'] = len(levels.STRIDES)
        report.note(f'{where}.backbone stays frozen as a whole')
    elif isinstance(frozen, int) and frozen > -1:
        why = 'ours were published trained as a whole' if trained else 'ours starts from scratch'
        report.add(f'{where}.backbone.frozen_stages', frozen, None, why)
    if present.get('norm_eval'):
        report.add(f'{where}.backbone.norm_eval', True, None, 'ours have no batch statistics')
    return settings


def _add_pyramid(model: dict[str, Any], maps: Maps, where: str, report: Report) -> Maps:
    """Heads that read a network with its own decoder read a feature pyramid of all our levels instead."""
    neck = pyramid(maps.new, model['backbone'].get('_scope_'))
    report.add(f'{where}.neck', None, neck, 'the old backbone had its own decoder; ours has none')
    model['neck'] = neck
    outputs = [FeatureMap(neck['out_channels'], m.stride) for m in maps.new]
    return Maps(maps.old, outputs, maps.positions)


def _swap_neck(model: dict[str, Any], framework: Framework, maps: Maps, where: str, report: Report) -> Maps:
    """What the heads read of the neck before and after."""
    present = build_alone(framework.registry, model['neck'], 'present neck')
    inputs = [maps.new[position] for position in maps.positions]
    neck = swap_neck(model['neck'], maps.old, inputs, f'{where}.neck', report)
    model['neck'] = neck
    try:
        before = neck_maps(present, maps.old)
    except OperatorMissing:
        report.note(f'{where}.neck has no kernels here; its outputs are taken to be as before')
        return Maps((), (), ())
    if neck is None:
        del model['neck']
        return Maps(before, maps.new, maps.positions)
    after = neck_maps(build_alone(framework.registry, neck, 'neck on our levels'), maps.new)
    if len(after) != len(before):
        raise SwapRefused(
            f'{where}.neck {type_name(neck)} gives {len(after)} maps on our levels, {len(before)} before;'
            ' swap it by hand'
        )
    return Maps(before, after, range(len(before)))


def _drop_weights(cfg: dict[str, Any], place: Place, report: Report) -> None:
    """Drop whole-model checkpoints, which belong to the old backbone."""
    why = 'weights for the old backbone'
    parts = [('model', cfg['model'])]
    parts += [] if place.field == 'model' else [(place.field, place.model)]
    for where, part in parts:
        for key in ('pretrained', 'init_cfg'):
            if part.get(key):
                report.add(f'{where}.{key}', part.pop(key), None, why)
    if cfg.get('load_from'):
        report.add('load_from', cfg['load_from'], None, why)
        cfg['load_from'] = None
    if cfg.get('resume'):
        report.add('resume', cfg['resume'], False, why)
        cfg['resume'] = False
    if cfg.get('work_dir'):
        report.note(
            f'work_dir = {cfg["work_dir"]} is kept; give another where the old model was trained in it'
        )


def _import(cfg: dict[str, Any], package: str, report: Report) -> None:
    """Have the config import the package that registers the backbone."""
    custom = dict(cfg.get('custom_imports') or {})
    names = custom.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    old = list(names)
    if 'mmpretrain.models' in names and not _mentions(cfg, 'mmpretrain.'):
        names.remove('mmpretrain.models')
    if package not in names:
        names.append(package)
    report.add('custom_imports.imports', old or None, names, 'registers the backbone')
    cfg['custom_imports'] = custom | dict(imports=names)


def _mentions(value: Any, prefix: str) -> bool:
    if isinstance(value, Mapping):
        kinds = (value.get('type'), value.get('_scope_'))
        found = any(isinstance(k, str) and f'{k}.'.startswith(prefix) for k in kinds)
        return found or any(_mentions(item, prefix) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_mentions(item, prefix) for item in value)
