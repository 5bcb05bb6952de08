"""The swap as part of a config that inherits the config to be swapped."""

from collections.abc import Mapping
from typing import Any

from mmengine.utils import import_modules_from_strings

from .framework import Framework
from .rewrite import swap
from .variants import PUBLISHED


def swapped_fields(
    base: Mapping[str, Any],
    framework: Framework,
    backbone: str | Mapping[str, Any],
    pretrained: str | None = PUBLISHED,
    optimizer: str = 'keep',
) -> dict[str, Any]:
    """Swap the backbone of an inherited config.

    Args:
        base: The inherited config, mmengine's ``_base_``.
        framework: The config's framework.
        backbone: See :func:`mmnat.swap.rewrite.swap`.
        pretrained: See there.
        optimizer: See there.

    Returns:
        The top-level fields that the swap changed, which replace the inherited ones.

    Raises:
        SwapRefused: If the result would make no sense.
    """
    if base.get('custom_imports'):  # mmengine imports them only after it has read the config
        import_modules_from_strings(**base['custom_imports'])
    new, _ = swap(base, framework, backbone, pretrained, optimizer)
    return {
        key: _replacing(value, base.get(key))
        for key, value in new.items()
        if key not in base or base[key] != value
    }


def _replacing(value: Any, inherited: Any) -> Any:
    # mmengine drops _delete_ from the result only if there is a dict to replace.
    both = isinstance(value, Mapping) and isinstance(inherited, Mapping)
    return {**value, '_delete_': True} if both else value
