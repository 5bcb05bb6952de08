"""The layouts of published checkpoints that can be converted, and detecting the layout of a file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor, nn

from mmnat.errors import UserError, abbreviate

from . import classification, detectron2, huggingface, openmmlab
from .renaming import Conversion


@dataclass(frozen=True)
class Layout:
    """A way to name the tensors of a model.

    Attributes:
        name: The models with this layout, for messages.
        recognizes: Whether a state dict has this layout.
        convert: Converts a state dict for today's models. Its second argument is the model of the given
            config, or None.
    """

    name: str
    recognizes: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[[Mapping[str, Tensor], nn.Module | None], Conversion]


def _of(module: ModuleType) -> Layout:
    """The layout of a module whose conversion does not depend on the config."""
    return Layout(module.NAME, module.recognizes, lambda weights, model: module.convert(weights))


#: A state dict has the first layout that recognizes it.
LAYOUTS = (
    _of(huggingface),
    Layout(detectron2.NAME, detectron2.recognizes, detectron2.convert),
    _of(openmmlab),
    _of(classification),
)


def layout_of(weights: Mapping[str, Tensor], path: str) -> Layout:
    """Return the layout of a state dict; raises UserError if it has none of them."""
    for layout in LAYOUTS:
        if layout.recognizes(weights):
            return layout
    raise UserError(
        f'checkpoint {path} has none of the layouts that can be converted: its tensors are'
        f' {abbreviate(sorted(weights), 3)}',
        f'give one of {_listed([layout.name for layout in LAYOUTS])}',
    )


def _listed(names: Sequence[str]) -> str:
    return f'{", ".join(names[:-1])}, or {names[-1]}'
