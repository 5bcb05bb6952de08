"""What differs between the frameworks whose configs are swapped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from mmengine.registry import Registry

from mmnat.config import register_modules
from mmnat.errors import UserError

from .report import Report

#: The entry point under which a package names its :class:`Framework`.
ENTRY_POINT = 'mmnat.frameworks'


def _nothing(model: dict[str, Any], where: str, report: Report) -> None:
    """No preparation."""


@dataclass(frozen=True)
class Framework:
    """What a swap has to know of a framework.

    Attributes:
        name: 'mmdet' or 'mmseg'.
        package: ours that registers the backbones there.
        registry: of its models.
        task: 'detection' or 'segmentation', see :mod:`mmnat.swap.variants`.
        optimizer: learning rate and weight decay of the published recipe.
        heads: fields of a model that hold its heads.
        deepest: whether a head on a single map gets the coarsest level, whatever the stride of the map.
        decoders: backbones that are whole networks with a decoder of their own; a feature pyramid on ours
            takes their place.
        refusals: types of models, backbones, necks or heads to what of them ours cannot give.
        prepare: changes a model in place before the swap, ``prepare(model, field, report)``.
    """

    name: str
    package: str
    registry: Registry
    task: str
    optimizer: Mapping[str, float]
    heads: tuple[str, ...]
    deepest: bool
    decoders: frozenset[str] = frozenset()
    refusals: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[dict[str, Any], str, Report], None] = _nothing


def load_framework(name: str) -> Framework:
    """What a swap knows of a framework; imports its modules, which register its models.

    Args:
        name: 'mmdet' or 'mmseg'.

    Raises:
        UserError: If no installed package has it.
    """
    found = {point.name: point for point in entry_points(group=ENTRY_POINT)}
    if name not in found:
        raise UserError(
            f'no installed package swaps backbones of {name} (known: {", ".join(sorted(found)) or "none"})',
            'install mmnat with `pip install .`',
        )
    register_modules(name)
    return found[name].load()
