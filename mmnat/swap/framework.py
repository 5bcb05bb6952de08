"""What differs between the frameworks whose configs are swapped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points

from mmengine.registry import Registry

from mmnat.config import register_modules
from mmnat.errors import UserError

from .editor import ConfigEditor

#: The entry point under which a package names its :class:`Framework`.
ENTRY_POINT = 'mmnat.frameworks'


def _nothing(editor: ConfigEditor, path: str) -> None:
    """No preparation."""


@dataclass(frozen=True)
class Framework:
    """What a swap has to know of a framework.

    Attributes:
        name: 'mmdet' or 'mmseg'.
        package: Our package that registers the backbones there.
        registry: The registry of its models.
        task: 'detection' or 'segmentation', see :mod:`mmnat.swap.variants`.
        optimizer: Learning rate and weight decay of the published recipe.
        heads: Fields of a model that hold its heads.
        single_map_uses_coarsest: Whether a head on a single map gets the coarsest level, whatever the map's
            stride.
        decoders: Backbones that are whole networks with a decoder of their own. A feature pyramid on our
            levels replaces them.
        refusals: For types of models, backbones, necks or heads that cannot be swapped: the reason.
        prepare: Changes a model before the swap, ``prepare(editor, path of the model)``.
    """

    name: str
    package: str
    registry: Registry
    task: str
    optimizer: Mapping[str, float]
    heads: tuple[str, ...]
    single_map_uses_coarsest: bool
    decoders: frozenset[str] = frozenset()
    refusals: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[ConfigEditor, str], None] = _nothing


def load_framework(name: str) -> Framework:
    """Load what a swap knows of a framework, and import the framework's modules, which register its models.

    Args:
        name: 'mmdet' or 'mmseg'.

    Raises:
        UserError: If no installed package knows the framework.
    """
    found = {point.name: point for point in entry_points(group=ENTRY_POINT)}
    if name not in found:
        raise UserError(
            f'no installed package swaps backbones of {name} (known: {", ".join(sorted(found)) or "none"})',
            'install mmnat with `pip install .`',
        )
    register_modules(name)
    return found[name].load()
