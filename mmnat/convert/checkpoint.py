"""Converts a published checkpoint and compares it with its model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mmnat.atomic_file import atomic_write
from mmnat.errors import UserError

from .comparison import fit
from .expected import configured_model, expected_by, expected_of
from .layouts import layout_of
from .source import read_source


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint.

    Attributes:
        checkpoint: The content of the file to write.
        report: The lines that tell what was done.
    """

    checkpoint: dict
    report: list[str]


def convert(src: str, config: str | None) -> Converted:
    """Read a checkpoint, convert it, and compare it with its model.

    Args:
        src: The checkpoint.
        config: The config of the model. If it is None, the model is inferred from the weights.
    """
    source = read_source(src)
    layout = layout_of(source.weights, src)
    model = configured_model(config) if config else None
    conversion = layout.convert(source.weights, model)
    if config and model is not None:
        expected = expected_by(config, model, conversion.weights)
    else:
        expected = expected_of(conversion.weights, src)
    fitting = fit(conversion.weights, expected, src)
    report = [
        f'{src}: {layout.name}',
        f'fits {expected.description}',
        *(conversion.steps or ['renamed: nothing']),
        f'dropped: {_listed([*conversion.dropped, *fitting.unused])}',
        f'left for the model to initialize: {_listed(fitting.missing)}',
        f'other entries not copied: {_listed(source.left_out)}',
        f'names of classes: {len(source.classes) or "none"}',
    ]
    return Converted(dict(state_dict=fitting.weights, meta=source.meta), report)


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names) or 'nothing'


def write(checkpoint: dict, dst: str) -> None:
    """Write a checkpoint completely or not at all."""
    with atomic_write(Path(dst)) as unfinished, open(unfinished, 'wb') as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # what torch raises if the disk is full
            reason = str(error).splitlines()[0]
            raise UserError(f'{dst} cannot be written: {reason}', 'make room, or choose another') from error
