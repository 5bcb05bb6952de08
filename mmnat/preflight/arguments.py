"""Arguments in a config that mmengine's runner passes on, some of them only after it has written files."""

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine import registry as registries
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop

from mmnat.errors import UserError

from .registries import registered

_STAGE = ('dataloader', 'cfg', 'evaluator')
_LOOPS = dict(val=ValLoop, test=TestLoop)
# What the runner and the registries read of a part, before its class gets the rest.
_OF_RUNNER = ('type', 'priority', 'by_epoch', 'dynamic_intervals', '_scope_')


def check_arguments(cfg: Config, train: bool) -> None:
    """Check that the parts of a stage are complete, and that loops and hooks know their arguments.

    Args:
        cfg: The config, whose types are registered.
        train: Whether it is for training, rather than for testing.

    Raises:
        UserError: If not.
    """
    if train:
        _check_stage(cfg, 'val')
    for field, part, call in [*_loops(cfg, train), *_hooks(cfg)]:
        _check_names(field, part, call)


def _check_stage(cfg: Config, stage: str) -> None:
    names = [f'{stage}_{name}' for name in _STAGE]
    missing = [name for name in names if cfg.get(name) is None]
    present = [name for name in names if name not in missing]
    if missing and present:
        raise UserError(
            f'the config lacks {" and ".join(missing)}, but has {" and ".join(present)}',
            f'define {", ".join(names)}, or set all three to None',
        )


def _loops(cfg: Config, train: bool) -> Iterator[tuple[str, Mapping[str, Any], Callable]]:
    for stage in ('train', 'val') if train else ('test',):
        field = f'{stage}_cfg'
        part = cfg.get(field)
        if not isinstance(part, dict):
            continue
        default = _LOOPS.get(stage)
        if stage == 'train' and 'type' not in part:
            if 'by_epoch' not in part:
                raise UserError(
                    f'{field} has neither type nor by_epoch',
                    "set type='EpochBasedTrainLoop' and max_epochs",
                )
            default = EpochBasedTrainLoop if part['by_epoch'] else IterBasedTrainLoop
        yield field, part, _class(field, registries.LOOPS, part.get('type', default))


def _hooks(cfg: Config) -> Iterator[tuple[str, Mapping[str, Any], Callable]]:
    hooks = [(f'default_hooks.{name}', hook) for name, hook in (cfg.get('default_hooks') or {}).items()]
    hooks += [(f'custom_hooks[{index}]', hook) for index, hook in enumerate(cfg.get('custom_hooks') or [])]
    for field, hook in hooks:
        if isinstance(hook, dict) and 'type' in hook:
            yield field, hook, _class(field, registries.HOOKS, hook['type'])


def _class(field: str, registry: Registry, kind: Any) -> Any:
    if kind is None:
        raise UserError(f'{field}.type = None is not a string', 'name a type, or leave the field out')
    return registered(registry, kind) if isinstance(kind, str) else kind


def _check_names(field: str, part: Mapping[str, Any], call: Any) -> None:
    known = _names(call)
    if known is None:
        return
    for name in part:
        if name not in known and name not in _OF_RUNNER:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f' (nearest: {nearest[0]})' if nearest else ''
            raise UserError(f'{field}: {call.__name__} has no argument {name!r}{hint}', 'correct the name')


def _names(call: Any) -> list[str] | None:
    """The arguments of a class; None if it takes all."""
    parameters = inspect.signature(call).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return list(parameters)
    if getattr(call, '__init__', None) is CheckpointHook.__init__:  # hands the others on
        return [*parameters, *inspect.signature(Runner.save_checkpoint).parameters]
    return None
