"""Configs as plain values, which a file can hold."""

import copy
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

from mmengine import registry as registries
from mmengine.config import Config
from mmengine.registry import Registry


def plain(value: Any) -> Any:
    """Copy a config, deeply, into plain dicts, lists and tuples.

    Types that are given as classes or functions, as in mmengine's pure Python configs, become their names.
    """
    if isinstance(value, Config):
        value = value._cfg_dict
    if isinstance(value, (type, FunctionType)):
        return _name(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    return copy.deepcopy(value)


def _name(kind: type | FunctionType) -> Any:
    """The name that a class is registered under, else its import path; a lambda is kept, it has no name."""
    for registry in _all_registries():
        if registry.module_dict.get(kind.__name__) is kind:
            return f'{registry.scope}.{kind.__name__}'
    return kind if '<' in kind.__qualname__ else f'{kind.__module__}.{kind.__qualname__}'


def _all_registries() -> Iterator[Registry]:
    for root in vars(registries).values():
        if isinstance(root, Registry):
            yield root
            yield from root.children.values()
