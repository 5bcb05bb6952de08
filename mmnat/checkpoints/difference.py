"""The difference between a state dict and the one that a model expects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Difference:
    """What differs between the state dict in a file and that of a model.

    Attributes:
        missing: Names that only the model has.
        unexpected: Names that only the file has.
        shapes: Names that both have with different shapes; the shape in the file and that in the model.
    """

    missing: list[str]
    unexpected: list[str]
    shapes: dict[str, tuple[torch.Size, torch.Size]]

    @property
    def shape_notes(self) -> list[str]:
        """The differences in shape in words, one for each tensor."""
        return [
            f'{name} is {tuple(in_file)} in the file and {tuple(in_model)} in the model'
            for name, (in_file, in_model) in self.shapes.items()
        ]


def compare(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Difference:
    """Compare a state dict with the one that a model expects.

    Args:
        weights: The state dict.
        expected: The model's own state dict; its tensors need no memory.
    """
    return Difference(
        missing=[name for name in expected if name not in weights],
        unexpected=[name for name in weights if name not in expected],
        shapes=_shapes(weights, expected),
    )


def load(model: nn.Module, weights: Mapping[str, Tensor]) -> Difference:
    """Load the tensors that fit into a model, and return how the others differ.

    Modules of mmdet and mmcv rename keys of older checkpoints while they load them, so comparing the two
    state dicts is not enough. torch returns which names are missing or unexpected after the renaming, but
    raises an error if shapes differ. Therefore a hook of each module compares the shapes: torch calls it
    after the renaming and before it copies anything.

    Args:
        model: The model.
        weights: The state dict.
    """
    expected = model.state_dict()
    shapes = {}

    def set_aside_other_shapes(module: nn.Module, state_dict: dict, prefix: str, *_: Any) -> None:
        own = {name: weight for name, weight in state_dict.items() if '.' not in name.removeprefix(prefix)}
        for name, differing in _shapes(own, expected).items():
            shapes[name] = differing
            del state_dict[name]

    hooks = [module.register_load_state_dict_pre_hook(set_aside_other_shapes) for module in model.modules()]
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    finally:
        for hook in hooks:
            hook.remove()
    return Difference([name for name in missing if name not in shapes], unexpected, shapes)


def _shapes(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, tuple[torch.Size, torch.Size]]:
    return {
        name: (weight.shape, expected[name].shape)
        for name, weight in weights.items()
        if name in expected and weight.shape != expected[name].shape
    }
