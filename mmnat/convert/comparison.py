"""Whether a state dict fits a model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmnat.errors import UserError, abbreviate

from .expected import Expected

# Initialised by the model where a file lacks them: the output norms of a backbone alone, which only dense
# prediction has, and the counters that torch added to batch norm later.
_OPTIONAL = re.compile(r'norm\d+\..+|.+\.num_batches_tracked')
# Not needed where a model does not return that level.
_UNUSED = re.compile(r'(?:backbone\.)?norm\d+\..+')


@dataclass(frozen=True)
class Fit:
    """A state dict beside a model that it fits.

    Attributes:
        weights: What the model takes.
        unused: Names of what it does not.
        missing: Names of what it initialises itself.
    """

    weights: dict[str, Tensor]
    unused: list[str]
    missing: list[str]


def fit(weights: Mapping[str, Tensor], model: Expected, path: str) -> Fit:
    """Compare a state dict with that of a model.

    Args:
        weights: Name to tensor.
        model: The model.
        path: The file, for messages.

    Raises:
        UserError: Where tensors are missing, of another shape or unknown to the model.
    """
    expected = model.state_dict
    unknown = [name for name in weights if name not in expected]
    absent = [name for name in expected if name not in weights]
    wrong = {
        'missing': [name for name in absent if not _OPTIONAL.fullmatch(name)],
        'of another shape': [
            f'{name} is {tuple(weight.shape)} in the file and {tuple(expected[name].shape)} in the model'
            for name, weight in weights.items()
            if name in expected and weight.shape != expected[name].shape
        ],
        'unknown to the model': [name for name in unknown if not _UNUSED.fullmatch(name)],
    }
    if any(wrong.values()):
        raise UserError(
            f'checkpoint {path} does not fit {model.description}: {_summary(wrong)}',
            'name the config that it was trained with by --config, or copy or download it again',
        )
    return Fit({n: w for n, w in weights.items() if n in expected}, unknown, absent)


def _summary(wrong: Mapping[str, Sequence[str]]) -> str:
    # One shape says enough, and takes a line.
    limits = {'of another shape': 1}
    return ', '.join(
        f'{len(names)} {how} ({abbreviate(names, limits.get(how, 3))})'
        for how, names in wrong.items()
        if names
    )
