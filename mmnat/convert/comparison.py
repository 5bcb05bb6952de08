"""Whether converted weights fit the model that they are for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmnat.checkpoints.difference import compare
from mmnat.errors import UserError, abbreviate

from .expected import Expected

# The model initializes these if a file lacks them: the output norms of a backbone alone, which only dense
# prediction has, and the counters that torch added to batch norm later.
_OPTIONAL = re.compile(r'norm\d+\..+|.+\.num_batches_tracked')
# The model does not need these if it does not return that level.
_UNUSED = re.compile(r'(?:backbone\.)?norm\d+\..+')


@dataclass(frozen=True)
class Fit:
    """Weights that fit a model.

    Attributes:
        weights: The weights that the model takes.
        unused: Names of the other weights.
        missing: Names of the weights that the model initializes itself.
    """

    weights: dict[str, Tensor]
    unused: list[str]
    missing: list[str]


def fit(weights: Mapping[str, Tensor], model: Expected, path: str) -> Fit:
    """Compare converted weights with those that a model expects.

    Args:
        weights: Name to tensor.
        model: The model.
        path: The file, for messages.

    Raises:
        UserError: If tensors are missing, have another shape or are unknown to the model.
    """
    difference = compare(weights, model.state_dict)
    wrong = {
        'missing': [name for name in difference.missing if not _OPTIONAL.fullmatch(name)],
        'of another shape': difference.shape_notes,
        'unknown to the model': [name for name in difference.unexpected if not _UNUSED.fullmatch(name)],
    }
    if any(wrong.values()):
        raise UserError(
            f'checkpoint {path} does not fit {model.description}: {_summary(wrong)}',
            'name the config that it was trained with by --config, or copy or download it again',
        )
    taken = {name: weight for name, weight in weights.items() if name in model.state_dict}
    return Fit(taken, difference.unexpected, difference.missing)


def _summary(wrong: Mapping[str, Sequence[str]]) -> str:
    # One shape is enough: it fills a line.
    limits = {'of another shape': 1}
    return ', '.join(
        f'{len(names)} {how} ({abbreviate(names, limits.get(how, 3))})'
        for how, names in wrong.items()
        if names
    )
