"""Reads the checkpoint to convert."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmnat.checkpoints.contents import check_meta
from mmnat.checkpoints.reading import local_file, read_checkpoint
from mmnat.errors import CheckpointError, UserError
from mmnat.models.pretrained import STATE_DICTS, state_dict_of


@dataclass(frozen=True)
class Source:
    """A checkpoint.

    Attributes:
        weights: Name to tensor.
        meta: The part of its ``meta`` that the converted file keeps.
        left_out: The names of its other entries.
    """

    weights: dict[str, Tensor]
    meta: dict[str, Any]
    left_out: list[str]

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; empty if the file has none."""
        return self.meta.get('dataset_meta', {}).get('classes') or ()


def read_source(path: str) -> Source:
    """Read a checkpoint that ``torch.save`` wrote, or a safetensors file.

    Args:
        path: A local file or a URL.

    Raises:
        UserError: If reading needs a package that is not installed, or if it is a pickle of another kind.
        CheckpointError: If the file cannot be read, holds no weights or would execute code.
    """
    file = local_file(path)
    if file.suffix == '.safetensors':
        return Source(_read_safetensors(file, path), {}, [])
    checkpoint = _read_pickle(file, path)
    weights = state_dict_of(checkpoint, path)
    check_meta(checkpoint, path)
    entries = {name: value for name, value in checkpoint.items() if isinstance(value, Mapping)}
    under = next((name for name in STATE_DICTS if name in entries), None)
    left_out = [] if under is None else [str(name) for name in checkpoint if name not in (under, 'meta')]
    return Source(weights, _kept_meta(entries.get('meta', {})), left_out)


def _read_pickle(file: Path, path: str) -> Any:
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        if file.suffix not in ('.pkl', '.pickle'):
            raise
        raise UserError(
            f'checkpoint {path} is a plain pickle, which can run code when it is loaded, so it was not',
            'if you trust its origin, write it anew elsewhere with'
            " torch.save(pickle.load(open(path, 'rb')), 'checkpoint.pth')",
        ) from error


def _read_safetensors(file: Path, path: str) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f'checkpoint {path} needs the package safetensors', 'run `pip install safetensors`'
        ) from error
    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointError(
            f'checkpoint {path} is cut short or not safetensors; copy or download it again'
        ) from error


def _kept_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The classes and colors, as mmdet 3.x and mmseg 1.x store them."""
    if isinstance(meta.get('dataset_meta'), Mapping):
        return dict(dataset_meta=meta['dataset_meta'])
    former = {name.lower(): meta.get(name) for name in ('CLASSES', 'PALETTE')}
    # If a data set had no class names, OpenMMLab saved None.
    lists = {name: _plain(value) for name, value in former.items() if value is not None}
    return dict(dataset_meta=lists) if 'classes' in lists else {}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
