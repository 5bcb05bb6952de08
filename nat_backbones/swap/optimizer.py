"""The optimiser of a config: what named the old backbone goes, what ours needs comes."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from .refusal import SwapRefused
from .report import Report

MODES = ('keep', 'nat')

#: Parameters without weight decay, in the published recipes.
_NO_DECAY = ('norm', 'rpb')
#: Keys of other backbones' configs, which name nothing even there where a part was switched off.
_OF_OTHERS = ('absolute_pos_embed', 'relative_position_bias_table', 'pos_block')
#: Constructors that give every layer a rate of its own, by the names of layers that they know.
_BY_LAYER = ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor')
#: Arguments of theirs.
_BY_LAYER_SETTINGS = ('num_layers', 'decay_rate', 'layer_decay_rate', 'decay_type')


def check_mode(mode: str) -> None:
    """Refuse an unknown way of treating the optimiser."""
    if mode not in MODES:
        raise SwapRefused(f'optimizer must be one of {", ".join(map(repr, MODES))}, got {mode!r}')


def set_optimizer(
    cfg: dict[str, Any],
    mode: str,
    published: Mapping[str, float],
    old: Collection[str],
    new: nn.Module,
    report: Report,
) -> None:
    """Adapt ``optim_wrapper``.

    Args:
        cfg: the config, changed in place.
        mode: 'keep' to keep the optimiser and its rate, 'nat' for the published one.
        published: its learning rate and weight decay in this framework.
        old: the names of the old backbone's parameters.
        new: the new backbone.
        report: gains what changed.
    """
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, dict) or 'optimizer' not in wrapper:
        return
    _remove_layer_decay(wrapper, report)
    if mode == 'nat':
        _set_published(wrapper, published, report)
    else:
        _remark_on_kept(wrapper['optimizer'], published, report)
    _set_custom_keys(wrapper, old, new, report)


def _remove_layer_decay(wrapper: dict, report: Report) -> None:
    constructor = wrapper.get('constructor')
    if str(constructor).split('.')[-1] not in _BY_LAYER:
        return
    report.add('optim_wrapper.constructor', wrapper.pop('constructor'), None, 'it does not know our layers')
    settings = dict(wrapper.get('paramwise_cfg') or {})
    for key in _BY_LAYER_SETTINGS:
        if key in settings:
            report.add(f'optim_wrapper.paramwise_cfg.{key}', settings.pop(key), None, 'of that constructor')
    wrapper['paramwise_cfg'] = settings


def _set_published(wrapper: dict, published: Mapping[str, float], report: Report) -> None:
    optimizer = dict(type='AdamW', lr=published['lr'], betas=(0.9, 0.999))
    optimizer['weight_decay'] = published['weight_decay']
    report.add(
        'optim_wrapper.optimizer', _summary(wrapper['optimizer']), _summary(optimizer), 'as published'
    )
    wrapper['optimizer'] = optimizer
    for key in list(wrapper.get('paramwise_cfg') or {}):
        if key != '_scope_':
            old = wrapper['paramwise_cfg'].pop(key)
            report.add(f'optim_wrapper.paramwise_cfg.{key}', old, None, 'as published')


def _summary(optimizer: Mapping[str, Any]) -> str:
    return ', '.join(str(optimizer.get(key)) for key in ('type', 'lr', 'weight_decay'))


def _remark_on_kept(optimizer: Mapping[str, Any], published: Mapping[str, float], report: Report) -> None:
    if str(optimizer.get('type')).split('.')[-1] != 'AdamW':
        report.note(
            f'optimizer {_summary(optimizer)} is kept; ours were trained with AdamW, lr'
            f' {published["lr"]:g},'
            f" weight decay {published['weight_decay']:g} at 16 images a batch (optimizer='nat')"
        )


def _set_custom_keys(wrapper: dict, old: Collection[str], new: nn.Module, report: Report) -> None:
    paramwise = wrapper['paramwise_cfg'] = dict(wrapper.get('paramwise_cfg') or {})
    keys = paramwise['custom_keys'] = dict(paramwise.get('custom_keys') or {})
    where = 'optim_wrapper.paramwise_cfg.custom_keys'
    names = [f'backbone.{name}' for name, _ in new.named_parameters()]
    for key in [key for key in keys if _only_in(key, old, names)]:
        report.add(f'{where}[{key!r}]', keys.pop(key), None, 'named parameters of the old backbone')
    whole = keys.get('backbone')
    added = _undecayed(names) if isinstance(whole, dict) else _NO_DECAY
    for key in added:
        setting = {**(whole or {}), **keys.get(key, {}), 'decay_mult': 0.0}
        if not isinstance(whole, dict):
            report.add(f'{where}[{key!r}]', keys.get(key), setting, 'no weight decay, as published')
        keys[key] = setting
    if isinstance(whole, dict):
        text = f'{len(added)} keys of norms and position biases'
        report.add(
            where, None, text, "no weight decay, as published; with the other settings of 'backbone'"
        )


def _only_in(key: str, old: Collection[str], new: Collection[str]) -> bool:
    names_old = key.startswith('backbone.') or key in _OF_OTHERS
    names_old = names_old or any(key in f'backbone.{name}' for name in old)
    return names_old and not any(key in name for name in new)


def _undecayed(names: Collection[str]) -> list[str]:
    """Keys longer than 'backbone', which would otherwise be taken first."""
    wanted = (name for name in names if any(part in name for part in _NO_DECAY))
    return sorted({name.rsplit('.', 1)[0] if 'norm' in name else name for name in wanted})
