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
_ADAMW_DECAY = 0.01
_KEYS = 'optim_wrapper.paramwise_cfg.custom_keys'
#: Settings of parameters that are not of the optimiser's recipe: how a constructor meets shared parameters.
_OF_MODELS = ('_scope_', 'bypass_duplicate')
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
    new: nn.Module,
    report: Report,
) -> None:
    """Adapt ``optim_wrapper``.

    Args:
        cfg: the config, changed in place.
        mode: 'keep' to keep the optimiser and its rate, 'nat' for the published one.
        published: its learning rate and weight decay in this framework.
        new: the new backbone.
        report: gains what changed.
    """
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, dict) or 'optimizer' not in wrapper:
        return
    _remove_layer_decay(wrapper, report)
    if mode == 'nat':
        rate = wrapper['optimizer'].get('lr')
        _set_published(wrapper, published, report)
        if isinstance(rate, (int, float)) and rate > 0:
            _scale_schedule(cfg.get('param_scheduler'), published['lr'] / rate, report)
    else:
        _remark_on_kept(wrapper['optimizer'], published, report)
    names = [f'backbone.{name}' for name, _ in new.named_parameters()]
    _drop_keys_of_the_old(wrapper, names, report)
    if _has_decay(wrapper['optimizer'], report):
        _allow_shared_parameters(wrapper, report)
        _spare_from_decay(wrapper, names, report)


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
        if key not in _OF_MODELS:
            old = wrapper['paramwise_cfg'].pop(key)
            report.add(f'optim_wrapper.paramwise_cfg.{key}', old, None, 'as published')


def _scale_schedule(schedulers: Any, factor: float, report: Report) -> None:
    """Keep the share of the learning rate that a schedule ends at, where it names a rate."""
    several = isinstance(schedulers, (list, tuple))
    for index, scheduler in enumerate(schedulers if several else [schedulers]):
        if isinstance(scheduler, dict) and scheduler.get('eta_min'):
            where = f'param_scheduler[{index}].eta_min' if several else 'param_scheduler.eta_min'
            end = scheduler['eta_min'] * factor
            report.add(where, scheduler['eta_min'], end, 'the same share of the published learning rate')
            scheduler['eta_min'] = end


def _has_decay(optimizer: dict, report: Report) -> bool:
    """Whether weight decay is set, which settings of parameters build on; AdamW has it by default."""
    if 'weight_decay' not in optimizer and _is_adamw(optimizer):
        report.add(
            'optim_wrapper.optimizer.weight_decay', None, _ADAMW_DECAY, "torch's default, spelled out"
        )
        optimizer['weight_decay'] = _ADAMW_DECAY
    return optimizer.get('weight_decay') is not None


def _is_adamw(optimizer: Mapping[str, Any]) -> bool:
    return str(optimizer.get('type')).split('.')[-1] == 'AdamW'


def _allow_shared_parameters(wrapper: dict, report: Report) -> None:
    """Parameters that heads share count once; mmengine has to be told so where settings part them."""
    if not wrapper.get('paramwise_cfg'):
        report.add(
            'optim_wrapper.paramwise_cfg.bypass_duplicate',
            None,
            True,
            'parameters that heads share count once',
        )
        wrapper['paramwise_cfg'] = dict(bypass_duplicate=True)


def _summary(optimizer: Mapping[str, Any]) -> str:
    return ', '.join(str(optimizer.get(key)) for key in ('type', 'lr', 'weight_decay'))


def _remark_on_kept(optimizer: Mapping[str, Any], published: Mapping[str, float], report: Report) -> None:
    if not _is_adamw(optimizer):
        report.note(
            f'optimizer {_summary(optimizer)} is kept; ours were trained with AdamW, lr'
            f' {published["lr"]:g},'
            f" weight decay {published['weight_decay']:g} at 16 images a batch (optimizer='nat')"
        )


def _drop_keys_of_the_old(wrapper: dict, names: Collection[str], report: Report) -> None:
    paramwise = wrapper.get('paramwise_cfg') or {}
    keys = dict(paramwise.get('custom_keys') or {})
    for key in [key for key in keys if _names_the_old(key, names)]:
        report.add(f'{_KEYS}[{key!r}]', keys.pop(key), None, 'named parameters of the old backbone')
    if keys != (paramwise.get('custom_keys') or {}):
        wrapper['paramwise_cfg'] = {**paramwise, 'custom_keys': keys}


def _spare_from_decay(wrapper: dict, names: Collection[str], report: Report) -> None:
    """Norms and position biases have no weight decay, as published."""
    paramwise = wrapper['paramwise_cfg'] = dict(wrapper['paramwise_cfg'])
    keys = paramwise['custom_keys'] = dict(paramwise.get('custom_keys') or {})
    wholes = [key for key in keys if key.split('.')[-1] == 'backbone']
    for whole in wholes:
        # The longest key that a name has decides: that of the whole backbone would be longer than ours.
        added = [whole + name.removeprefix('backbone') for name in _undecayed(names)]
        keys |= {key: {**keys[whole], **keys.get(key, {}), 'decay_mult': 0.0} for key in added}
        text = f'{len(added)} keys of norms and position biases'
        report.add(
            _KEYS, None, text, f'no weight decay, as published; with the other settings of {whole!r}'
        )
    for key in () if wholes else _NO_DECAY:
        setting = {**keys.get(key, {}), 'decay_mult': 0.0}
        report.add(f'{_KEYS}[{key!r}]', keys.get(key), setting, 'no weight decay, as published')
        keys[key] = setting


def _names_the_old(key: str, new: Collection[str]) -> bool:
    """Whether a key names parameters of the old backbone that the new one, of these names, has not.

    Keys without 'backbone.' may be of necks and heads as well; where they are of nothing, they do no harm.
    """
    _, inside, name = key.partition('backbone.')
    return key in _OF_OTHERS or (bool(inside) and not any(f'backbone.{name}' in other for other in new))


def _undecayed(names: Collection[str]) -> list[str]:
    """Keys longer than 'backbone', which would otherwise be taken first."""
    wanted = (name for name in names if any(part in name for part in _NO_DECAY))
    return sorted({name.rsplit('.', 1)[0] if 'norm' in name else name for name in wanted})
