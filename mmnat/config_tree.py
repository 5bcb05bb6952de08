"""The parts of a config and their paths.

A path reads like Python: ``model.neck.in_channels``, ``param_scheduler[0].eta_min``. A key that contains a
dot, a bracket or white space is quoted: ``custom_keys['backbone.norm']``.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Key = str | int

_NAME = re.compile(r'[^.\[\]\s]+')
_STEP = re.compile(
    rf"""
    (?:^|(?<=.)\.) (?P<name>{_NAME.pattern})
    | \[ (?P<literal> -?\d+ | '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" ) \]
    """,
    re.VERBOSE,
)


def walk(config: Any, path: str = '') -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every dict in a part of a config, and the part itself if it is one.

    A dict comes before the dicts inside it, and may be changed when it comes.

    Args:
        config: The part: a dict, a list, a tuple or anything else.
        path: Its path in the config.

    Yields:
        The path and the dict.
    """
    if isinstance(config, dict):
        yield path, config
        for key, value in config.items():
            yield from walk(value, join(path, key))
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from walk(value, join(path, index))


def copy_with(config: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Copy a part of a config, with every dict in it changed.

    Args:
        config: The part: a dict, a list, a tuple or anything else.
        change: Takes the copy of a dict, in which all inner dicts are changed, and returns the new one.
    """
    if isinstance(config, Mapping):
        return change({key: copy_with(value, change) for key, value in config.items()})
    if isinstance(config, (list, tuple)):
        return type(config)(copy_with(value, change) for value in config)
    return config


def join(path: str, key: Key) -> str:
    """The path of what a part holds under a key or an index.

    Args:
        path: The path of the part; empty for the whole config.
        key: The key or the index.
    """
    if isinstance(key, str) and _NAME.fullmatch(key):
        return f'{path}.{key}' if path else key
    return f'{path}[{key!r}]'


def split(path: str) -> list[Key]:
    """The keys and indices of a path.

    Raises:
        ValueError: If it is not a path.
    """
    steps = list(_STEP.finditer(path))
    if not path or ''.join(step[0] for step in steps) != path:
        raise ValueError(f"path must read like model.neck[0].in_channels or keys['a.b'], got {path!r}")
    return [step['name'] or ast.literal_eval(step['literal']) for step in steps]
