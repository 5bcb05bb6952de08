"""A swap for configs that inherit the one to be swapped."""

from collections.abc import Mapping
from typing import Any


def changed_fields(base: Mapping[str, Any], swapped: Mapping[str, Any]) -> dict[str, Any]:
    """The top-level fields that a swap changed, such that they replace those inherited.

    Args:
        base: the inherited config.
        swapped: the config after the swap.
    """
    return {
        key: _replacing(value, base.get(key))
        for key, value in swapped.items()
        if key not in base or base[key] != value
    }


def _replacing(value: Any, inherited: Any) -> Any:
    # mmengine takes _delete_ away only where there is something to delete.
    both = isinstance(value, Mapping) and isinstance(inherited, Mapping)
    return {**value, '_delete_': True} if both else value
