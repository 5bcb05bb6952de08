"""Types in a config, looked up in the registries."""

import difflib
import os.path as osp
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine import registry as registries
from mmengine.config import Config
from mmengine.registry import Registry

from mmnat.config_tree import walk
from mmnat.errors import UserError


def build_registered(registry: Registry, cfg: dict, field: str) -> Any:
    """Build a part of a config, and name the field if a type in it is not registered.

    Args:
        registry: Builds the part.
        cfg: The part.
        field: Where the part is in the config.

    Returns:
        The object that the registry builds.

    Raises:
        UserError: If a type in the part is not registered.
    """
    try:
        return registry.build(cfg)
    except KeyError as error:
        # Some types belong to no registry, for example that of an NMS. The error names the one that failed.
        named = {word.strip('\'"') for word in str(error).split()}
        for path, part in walk(cfg, field):
            if isinstance(part.get('type'), str) and part['type'] in named:
                raise _not_buildable(f'{path}.type', part['type']) from error
        raise


def reason(error: Exception) -> str:
    """Say in a line why a constructor failed, and where if it did not mean to."""
    text = ' '.join(str(error).split())
    if isinstance(error, (AssertionError, TypeError, ValueError)) and text:
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f'{type(error).__name__} in {osp.basename(place.filename)}, line {place.lineno}: {text}'


def check_type(value: Any, field: str, *kinds: Registry) -> None:
    """Raise :class:`UserError` if a type is registered in none of some registries.

    Args:
        value: The type; only a string is a name that needs registering.
        field: Where the type is in the config.
        *kinds: mmengine's registries, which lead to those of the framework.
    """
    if isinstance(value, str) and not any(registered(kind, value) for kind in kinds):
        raise _unregistered(field, value, kinds[:1])


def check_runtime_types(cfg: Config, train: bool) -> None:
    """Check the types of everything around the model and the data sets.

    Args:
        cfg: The config.
        train: Whether it is for training, rather than for testing.
    """
    stages = ('train', 'val') if train else ('test',)
    for stage in stages:
        _check_parts(cfg, f'{stage}_cfg', registries.LOOPS)
        evaluators = (registries.METRICS, registries.EVALUATOR)
        _check_parts(cfg, f'{stage}_evaluator', *evaluators)
        for part in ('sampler', 'batch_sampler'):
            _check_parts(cfg, f'{stage}_dataloader.{part}', registries.DATA_SAMPLERS)
    if train:
        _check_parts(cfg, 'optim_wrapper', registries.OPTIM_WRAPPERS)
        _check_parts(cfg, 'optim_wrapper.optimizer', registries.OPTIMIZERS)
        constructor = _part(cfg, 'optim_wrapper.constructor')
        constructors = registries.OPTIM_WRAPPER_CONSTRUCTORS
        check_type(constructor, 'optim_wrapper.constructor', constructors)
        _check_parts(cfg, 'param_scheduler', registries.PARAM_SCHEDULERS)
    for name in cfg.get('default_hooks') or {}:
        _check_parts(cfg, f'default_hooks.{name}', registries.HOOKS)
    _check_parts(cfg, 'custom_hooks', registries.HOOKS)
    _check_parts(cfg, 'visualizer', registries.VISUALIZERS)
    _check_parts(cfg, 'visualizer.vis_backends', registries.VISBACKENDS)
    check_type(cfg.get('runner_type'), 'runner_type', registries.RUNNERS)


def _check_parts(cfg: Config, field: str, *kinds: Registry) -> None:
    value = _part(cfg, field)
    if isinstance(value, dict):
        check_type(value.get('type'), f'{field}.type', *kinds)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                check_type(item.get('type'), f'{field}[{index}].type', *kinds)


def _part(cfg: Config, field: str) -> Any:
    value = cfg
    for key in field.split('.'):
        value = value.get(key) if hasattr(value, 'get') else None
    return value


def registered(registry: Registry, name: str) -> Any:
    """Look a name up in a registry and those of the framework; None if it is in none of them."""
    with registry.switch_scope_and_registry(None) as scoped:
        return scoped.get(name) if name else None  # mmengine fails on an empty name


def _not_buildable(field: str, name: str) -> UserError:
    """The error for a type that the builder of a part of the config did not find."""
    every = [value for value in vars(registries).values() if isinstance(value, Registry)]
    kinds = [registry.name for registry in every if registered(registry, name)]
    if not kinds:
        return _unregistered(field, name, every)
    return UserError(
        f'{field} = {name!r} is registered as {" and ".join(kinds)}, which cannot be used there',
        'correct the name',
    )


def _unregistered(field: str, name: str, kinds: Sequence[Registry]) -> UserError:
    names = {known for registry in kinds for known in _names(registry)}
    nearest = [known for known in sorted(names) if known.lower() == name.lower()]
    nearest = nearest or difflib.get_close_matches(name, sorted(names), n=3)
    hint = f' (nearest: {", ".join(nearest)})' if nearest else ''
    return UserError(
        f'{field} = {name!r} is not registered{hint}',
        'correct the name, or add the package that registers it to custom_imports',
    )


def _names(registry: Registry) -> Iterator[str]:
    """All names that a config can use for a registry."""
    with registry.switch_scope_and_registry(None) as scoped:
        while scoped is not None:
            yield from scoped.module_dict
            scoped = scoped.parent
