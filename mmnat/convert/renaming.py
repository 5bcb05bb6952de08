"""Renames the tensors of a state dict by rules."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

#: A pattern for a whole name, and its replacement: a template, a function of the match, or None if today's
#: models do not need the tensor.
Rule = tuple[str, str | Callable[[re.Match], str] | None]


@dataclass
class Conversion:
    """Weights with the names of today's models.

    Attributes:
        weights: Name to tensor.
        steps: The changes of names and tensors, one line for each.
        dropped: Names of the tensors that were left out.
    """

    weights: dict[str, Tensor]
    steps: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def rename(weights: Mapping[str, Tensor], rules: Sequence[Rule]) -> Conversion:
    """Apply to every name the first rule that matches; other names stay.

    Args:
        weights: Name to tensor.
        rules: The rules.

    Returns:
        The renamed weights. For each rule a step says how many names it changed, and the first of them.
    """
    result = Conversion({})
    changed: dict[str, list[str]] = {}
    for name, weight in weights.items():
        new, pattern = _renamed(name, rules)
        if new is None:
            result.dropped.append(name)
            continue
        result.weights[new] = weight
        if new != name:
            changed.setdefault(pattern, []).append(f'{name} -> {new}')
    result.steps = [f'renamed {len(changes)}, first: {changes[0]}' for changes in changed.values()]
    return result


def _renamed(name: str, rules: Sequence[Rule]) -> tuple[str | None, str]:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match is None:
            continue
        if isinstance(replacement, str):
            return match.expand(replacement), pattern
        return (None if replacement is None else replacement(match)), pattern
    return name, ''
