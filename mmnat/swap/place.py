"""Find the backbone of a config: in the model, or in the detector or segmentor that the model wraps."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmnat.config_tree import join

from .probe import type_name
from .refusal import SwapRefused

#: Other networks inside a model, whose backbones stay.
_OTHER_NETWORKS = ('reid', 'teacher')


@dataclass(frozen=True)
class Place:
    """The part of a model that has the backbone.

    Attributes:
        path: Its path, such as 'model' or 'model.detector'.
        model: Its config.
        others: Paths of other networks with backbones of their own.
    """

    path: str
    model: dict[str, Any]
    others: tuple[str, ...]


def find_backbone(cfg: Mapping[str, Any]) -> Place:
    """Find the one backbone of a config.

    Raises:
        SwapRefused: If there is none, or more than one.
    """
    model = cfg.get('model')
    if not isinstance(model, Mapping):
        raise SwapRefused('the config has no model; give the config of a detector or a segmentor')
    found = list(_with_backbone(model, 'model'))
    mine = [(path, part) for path, part in found if not _is_other(path)]
    others = tuple(path for path, _ in found if _is_other(path))
    if not mine:
        raise SwapRefused(
            f'model {type_name(model)} has no backbone (its parts: {", ".join(_parts(model))}); only models'
            ' with a field `backbone` can have it swapped'
        )
    several = [f'{path}.backbone' for path, _ in mine]
    several += [
        f'{mine[0][0]}.{key}' for key in mine[0][1] if key.endswith('_backbone') and not _is_other(key)
    ]
    if len(several) > 1:
        raise SwapRefused(
            f'the config lists several backbones ({", ".join(several)}); a swap would not know which one'
        )
    path, part = mine[0]
    if part.get('teacher_config'):
        others += (f'{path}.teacher_config',)
    if not isinstance(part['backbone'], Mapping) or 'type' not in part['backbone']:
        raise SwapRefused(
            f'{path}.backbone has no type: it is not a backbone of OpenMMLab; swap it by hand'
        )
    return Place(path, part, others)


def _with_backbone(part: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The outermost parts that have a backbone, with their paths."""
    if not isinstance(part, dict):
        return
    if part.get('backbone') is not None:
        yield path, part
        return
    for key, value in part.items():
        yield from _with_backbone(value, join(path, key))


def _is_other(path: str) -> bool:
    return any(name.startswith(_OTHER_NETWORKS) for name in path.split('.'))


def _parts(model: Mapping[str, Any]) -> list[str]:
    return [key for key, value in model.items() if isinstance(value, Mapping)]
