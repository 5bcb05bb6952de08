"""Names in a config that nothing is registered under."""

import difflib
import re
from collections.abc import Callable
from typing import Any, TypeVar

from mmengine import registry as registries
from mmengine.config import Config
from mmengine.registry import Registry

from mmnat.config_tree import walk
from mmnat.errors import UserError

T = TypeVar('T')

_UNREGISTERED = re.compile(r'(?P<name>\S+) is not in the (?P<scope>\S+)::(?P<kind>.+?) registry')


def build_registered(build: Callable[[], T], cfg: Any, field: str) -> T:
    """Build a part of the config, naming the field if a type in it is not registered.

    Args:
        build (Callable): Builds the part.
        cfg (ConfigDict): The part of the config that ``build`` is given.
        field (str): Where the part is in the config.

    Returns:
        Any: What ``build`` returns.
    """
    try:
        return build()
    except KeyError as error:
        match = _UNREGISTERED.search(str(error))
        if match is None:
            raise
        name = match['name'].strip('\'"')
        places = (f'{path}.type' for path, part in walk(cfg, field) if part.get('type') == name)
        place = next(places, field)
        raise _unregistered(place, name, _registry_named(match['kind'])) from error


def check_type(value: Any, field: str, *kinds: Registry) -> None:
    """Raise :class:`UserError` if a type is registered in none of some registries.

    Args:
        value (Any): The type; only a string is a name that needs registering.
        field (str): Where the type is in the config.
        *kinds (Registry): mmengine's registries, which lead to those of the framework.
    """
    if isinstance(value, str) and not any(_get(kind, value) for kind in kinds):
        raise _unregistered(field, value, kinds[0])


def check_runtime_types(cfg: Config, train: bool) -> None:
    """Check the types of all that surrounds the model and the data sets.

    Args:
        cfg (Config): The config.
        train (bool): Whether it is for training, rather than for testing.
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


def _get(registry: Registry, name: str) -> Any:
    with registry.switch_scope_and_registry(None) as scoped:
        return scoped.get(name)


def _unregistered(field: str, name: str, registry: Registry | None) -> UserError:
    nearest = difflib.get_close_matches(name, _names(registry), n=3)
    hint = f' (nearest: {", ".join(nearest)})' if nearest else ''
    return UserError(
        f'{field} = {name!r} is not registered{hint}',
        'correct the name, or add the package that registers it to custom_imports',
    )


def _names(registry: Registry | None) -> list[str]:
    names: set[str] = set()
    if registry is None:
        return []
    with registry.switch_scope_and_registry(None) as scoped:
        while scoped is not None:
            names.update(scoped.module_dict)
            scoped = scoped.parent
    return sorted(names)


def _registry_named(kind: str) -> Registry | None:
    candidates = (value for value in vars(registries).values() if isinstance(value, Registry))
    return next((value for value in candidates if value.name == kind), None)
