"""The optimizer of a config: remove what named the old backbone, add what ours needs."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from mmnat.optimizers import NATLayerDecayOptimizerConstructor
from mmnat.preflight.optimizer import BY_LAYER

from .editor import ConfigEditor
from .refusal import SwapRefused

MODES = ('keep', 'nat')

#: Parameters without weight decay, in the published recipes.
_NO_DECAY = ('norm', 'rpb')
_NO_DECAY_REASON = 'no weight decay, as published'
#: Keys from the configs of other backbones. Some configs keep a key although it names nothing any more.
_OF_OTHERS = ('absolute_pos_embed', 'relative_position_bias_table', 'pos_block')
_ADAMW_DECAY = 0.01
_OPTIMIZER = 'optim_wrapper.optimizer'
_PARAMWISE = 'optim_wrapper.paramwise_cfg'
_KEYS = f'{_PARAMWISE}.custom_keys'
#: Settings in paramwise_cfg that belong to the model, not to the optimizer's recipe: what to do about
#: parameters that heads share.
_OF_MODELS = ('_scope_', 'bypass_duplicate')
_OURS = NATLayerDecayOptimizerConstructor.__name__
#: Arguments of constructors that give every layer its own learning rate.
_BY_LAYER_SETTINGS = ('num_layers', 'decay_rate', 'layer_decay_rate', 'decay_type')


def check_mode(mode: str) -> None:
    """Refuse an unknown way to treat the optimizer.

    Raises:
        SwapRefused: If the mode is none of :data:`MODES`.
    """
    if mode not in MODES:
        raise SwapRefused(f'optimizer must be one of {", ".join(map(repr, MODES))}, got {mode!r}')


def set_optimizer(editor: ConfigEditor, mode: str, published: Mapping[str, float], new: nn.Module) -> None:
    """Adapt ``optim_wrapper``.

    Args:
        editor: Holds the config.
        mode: 'keep' to keep the optimizer and its learning rate, 'nat' for the published one.
        published: The published learning rate and weight decay in this framework.
        new: The new backbone.
    """
    present = editor.get(_OPTIMIZER)
    if present is None:
        return
    _replace_layer_decay(editor, mode)
    if mode == 'nat':
        _set_published(editor, published)
        rate = present.get('lr')
        if isinstance(rate, (int, float)) and rate > 0:
            _scale_schedule(editor, published['lr'] / rate)
    else:
        _note_kept(editor, published)
    names = [f'backbone.{name}' for name, _ in new.named_parameters()]
    _remove_keys_of_the_old(editor, names)
    _spell_out_decay(editor)
    if editor.get(f'{_OPTIMIZER}.weight_decay') is not None:
        _allow_shared_parameters(editor)
        _exempt_from_decay(editor, names)


def _replace_layer_decay(editor: ConfigEditor, mode: str) -> None:
    """Have our own constructor take over what those of the frameworks do for other backbones."""
    constructor = editor.get('optim_wrapper.constructor')
    if str(getattr(constructor, '__name__', constructor)).split('.')[-1] not in BY_LAYER:
        return
    settings = editor.get(_PARAMWISE) or {}
    rate = settings.get('decay_rate', settings.get('layer_decay_rate'))
    if mode == 'nat' or rate is None:
        editor.remove('optim_wrapper.constructor', 'it does not know our layers')
        unused: tuple[str, ...] = _BY_LAYER_SETTINGS
    else:
        why = 'ours knows the layers of the new backbone'
        editor.set('optim_wrapper.constructor', _OURS, why)
        editor.set(f'{_PARAMWISE}.decay_rate', rate, 'of the old constructor')
        unused = ('num_layers', 'layer_decay_rate')
    for key in unused:
        if key in settings:
            editor.remove(f'{_PARAMWISE}.{key}', 'of the old constructor')


def _set_published(editor: ConfigEditor, published: Mapping[str, float]) -> None:
    optimizer = dict(type='AdamW', lr=published['lr'], betas=(0.9, 0.999))
    optimizer['weight_decay'] = published['weight_decay']
    shown = _summary(editor.get(_OPTIMIZER)), _summary(optimizer)
    editor.set(_OPTIMIZER, optimizer, 'as published', shown)
    for key in list(editor.get(_PARAMWISE) or {}):
        if key not in _OF_MODELS:
            editor.remove(f'{_PARAMWISE}.{key}', 'as published')


def _scale_schedule(editor: ConfigEditor, factor: float) -> None:
    """If a schedule names the learning rate that it ends at, keep its share of the initial one."""
    schedulers = editor.get('param_scheduler')
    paths = ['param_scheduler']
    if isinstance(schedulers, (list, tuple)):
        paths = [f'param_scheduler[{index}]' for index in range(len(schedulers))]
    for path in paths:
        end = editor.get(f'{path}.eta_min')
        if end:
            editor.set(f'{path}.eta_min', end * factor, 'the same share of the published learning rate')


def _spell_out_decay(editor: ConfigEditor) -> None:
    """Name AdamW's default weight decay: without a value, mmengine allows no decay_mult."""
    optimizer = editor.get(_OPTIMIZER)
    if 'weight_decay' not in optimizer and _is_adamw(optimizer):
        editor.set(f'{_OPTIMIZER}.weight_decay', _ADAMW_DECAY, "torch's default, spelled out")


def _is_adamw(optimizer: Mapping[str, Any]) -> bool:
    return str(optimizer.get('type')).split('.')[-1] == 'AdamW'


def _allow_shared_parameters(editor: ConfigEditor) -> None:
    """Parameters that heads share count once: with a paramwise_cfg, mmengine has to be told so."""
    if not editor.get(_PARAMWISE):
        editor.set(f'{_PARAMWISE}.bypass_duplicate', True, 'parameters that heads share count once')


def _summary(optimizer: Mapping[str, Any]) -> str:
    return ', '.join(str(optimizer.get(key)) for key in ('type', 'lr', 'weight_decay'))


def _note_kept(editor: ConfigEditor, published: Mapping[str, float]) -> None:
    optimizer = editor.get(_OPTIMIZER)
    if not _is_adamw(optimizer):
        editor.report.note(
            f'optimizer {_summary(optimizer)} is kept; ours were trained with AdamW, lr'
            f' {published["lr"]:g},'
            f" weight decay {published['weight_decay']:g} at 16 images a batch (optimizer='nat')"
        )


def _remove_keys_of_the_old(editor: ConfigEditor, names: Collection[str]) -> None:
    for key in list(editor.get(_KEYS) or {}):
        if _names_the_old(key, names):
            editor.remove(_key_path(key), 'named parameters of the old backbone')


def _exempt_from_decay(editor: ConfigEditor, names: Collection[str]) -> None:
    """Norms and position biases have no weight decay, as published."""
    keys = editor.get(_KEYS) or {}
    wholes = [key for key in keys if key.split('.')[-1] == 'backbone']
    for whole in wholes:
        # mmengine takes the longest key that a name has. That of the whole backbone is longer than 'norm'.
        added = [whole + name.removeprefix('backbone') for name in _undecayed(names)]
        keys = keys | {key: {**keys[whole], **keys.get(key, {}), 'decay_mult': 0.0} for key in added}
        why = f'{_NO_DECAY_REASON}; with the other settings of {whole!r}'
        editor.set(_KEYS, keys, why, shown=(None, f'{len(added)} keys of norms and position biases'))
    for key in () if wholes else _NO_DECAY:
        setting = {**keys.get(key, {}), 'decay_mult': 0.0}
        editor.set(_key_path(key), setting, _NO_DECAY_REASON)


def _key_path(key: str) -> str:
    return f'{_KEYS}[{key!r}]'


def _names_the_old(key: str, new: Collection[str]) -> bool:
    """Whether a key names parameters of the old backbone that the new one lacks.

    A key without 'backbone.' may name parameters of necks and heads too, so it stays. If it names nothing,
    it does no harm.

    Args:
        key: The key.
        new: The names of the new backbone's parameters.
    """
    _, inside, name = key.partition('backbone.')
    return key in _OF_OTHERS or (bool(inside) and not any(f'backbone.{name}' in other for other in new))


def _undecayed(names: Collection[str]) -> list[str]:
    """Keys of norms and position biases, longer than 'backbone', so that mmengine takes them first."""
    wanted = (name for name in names if any(part in name for part in _NO_DECAY))
    return sorted({name.rsplit('.', 1)[0] if 'norm' in name else name for name in wanted})
