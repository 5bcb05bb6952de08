"""Where in a config the backbone is: in the model, or in the detector or segmentor that it wraps."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .probe import type_name
from .refusal import SwapRefused

#: Parts that have a backbone of their own, which stays: another network's.
_OTHER_NETWORKS = ('reid', 'teacher')


@dataclass(frozen=True)
class Place:
    """The part of a model that has the backbone.

    Attributes:
        field: its field, 'model' or 'model.detector', say.
        model: its config.
        others: fields of other networks with backbones of their own.
    """

    field: str
    model: dict[str, Any]
    others: tuple[str, ...]


def find_backbone(cfg: Mapping[str, Any]) -> Place:
    """Find the one backbone of a config.

    Raises:
        SwapRefused: where there is none, or more than one.
    """
    model = cfg.get('model')
    if not isinstance(model, Mapping):
        raise SwapRefused('the config has no model; give the config of a detector or a segmentor')
    found = list(_with_backbone(model, 'model'))
    mine = [(where, part) for where, part in found if not _is_other(where)]
    others = tuple(where for where, _ in found if _is_other(where))
    if not mine:
        raise SwapRefused(
            f'model {type_name(model)} has no backbone (its parts: {", ".join(_parts(model))}); only models'
            ' with a field `backbone` can have it swapped'
        )
    several = [f'{where}.backbone' for where, _ in mine]
    several += [
        f'{mine[0][0]}.{key}' for key in mine[0][1] if key.endswith('_backbone') and not _is_other(key)
    ]
    if len(several) > 1:
        raise SwapRefused(
            f'the config lists several backbones ({", ".join(several)}); a swap would not know which one'
        )
    where, part = mine[0]
    if part.get('teacher_config'):
        others += (f'{where}.teacher_config',)
    if not isinstance(part['backbone'], Mapping) or 'type' not in part['backbone']:
        raise SwapRefused(
            f'{where}.backbone has no type: it is not a backbone of OpenMMLab; swap it by hand'
        )
    return Place(where, part, others)


def _with_backbone(part: Any, where: str) -> Iterator[tuple[str, dict]]:
    if not isinstance(part, dict):
        return
    if part.get('backbone') is not None:
        yield where, part
        return
    for key, value in part.items():
        yield from _with_backbone(value, f'{where}.{key}')


def _is_other(where: str) -> bool:
    return any(part.startswith(_OTHER_NETWORKS) for part in where.split('.'))


def _parts(model: Mapping) -> list[str]:
    return [key for key, value in model.items() if isinstance(value, Mapping)]
