"""What a state dict and the entries beside it have to be, whoever wrote the file."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmnat.errors import CheckpointError

# What mmengine reads of the message hub.
_HUB = ('log_scalars', 'runtime_info', 'resumed_keys')
_REMEDY = 'copy or download it again, or get one that `mmnat train` or torch.save(model.state_dict()) wrote'


def plain_weights(entries: Iterable[tuple[Any, Any]], path: str) -> 'OrderedDict[str, Tensor]':
    """Take the tensors of a state dict, without the prefix of data parallelism.

    Args:
        entries: Names and values.
        path: The file, for messages.

    Returns:
        The tensors by name.

    Raises:
        CheckpointError: If a name is no string, or a tensor has no values that a model could take.
    """
    weights: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in entries:
        if not isinstance(value, Tensor):
            continue
        if not isinstance(name, str):
            raise CheckpointError(
                f'checkpoint {path} has a tensor under {name!r:.100}, which is no name; {_REMEDY}'
            )
        kind = _odd_kind(value)
        if kind:
            raise CheckpointError(
                f'checkpoint {path}: {name} is a {kind} tensor, which no model takes; {_REMEDY}'
            )
        weights[name.removeprefix('module.')] = value
    return weights


def versions(state_dict: Any, path: str) -> dict | None:
    """The versions of modules that torch keeps beside the names of a state dict; None if there are none.

    Args:
        state_dict: The state dict.
        path: The file, for messages.

    Raises:
        CheckpointError: If they are of another form, with which torch would fail.
    """
    found = getattr(state_dict, '_metadata', None)
    if found is None:
        return None
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        raise CheckpointError(f'checkpoint {path}: _metadata of its state dict is damaged; {_REMEDY}')
    if not all(isinstance(part.get('version') or 0, int) for part in found.values()):
        raise CheckpointError(f'checkpoint {path} has a version of a module that is no number; {_REMEDY}')
    return found


def check_meta(checkpoint: Mapping, path: str) -> None:
    """Check ``meta`` of a checkpoint, as far as mmengine, mmdet and mmseg read it.

    Args:
        checkpoint: The content of a file. It need not have ``meta``.
        path: The file, for messages.

    Raises:
        CheckpointError: If a part has another type than they expect.
    """
    meta = checkpoint.get('meta')
    if meta is None:
        return
    if not isinstance(meta, Mapping):
        raise CheckpointError(f'checkpoint {path}: meta is a {type(meta).__name__}, not a dict; {_REMEDY}')
    described = meta.get('dataset_meta')
    if described is not None and not isinstance(described, Mapping):
        raise CheckpointError(f'checkpoint {path}: meta.dataset_meta is not a dict; {_REMEDY}')
    named = dict(described or {})
    for place, classes in (
        ('dataset_meta.classes', named.get('classes', named.get('CLASSES'))),
        ('CLASSES', meta.get('CLASSES')),
    ):
        are_names = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
        if classes is not None and not are_names:
            raise CheckpointError(f'checkpoint {path}: meta.{place} is no list of names; {_REMEDY}')


def check_progress(checkpoint: Mapping, path: str) -> None:
    """Check how far the training of a checkpoint is, and what it logged, as far as mmengine reads it.

    Args:
        checkpoint: The content of a file, with ``meta`` and ``message_hub``.
        path: The file, for messages.

    Raises:
        CheckpointError: If a part has another type than mmengine expects.
    """
    for name in ('epoch', 'iter'):
        value = (checkpoint['meta'] or {}).get(name)
        if not isinstance(value, int) or value < 0:
            raise CheckpointError(f'checkpoint {path}: meta.{name} is {value!r:.100}, no count; {_REMEDY}')
    hub = checkpoint['message_hub']
    parts = [hub.get(name) for name in _HUB] if isinstance(hub, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        raise CheckpointError(f'checkpoint {path}: message_hub has not {", ".join(_HUB)}; {_REMEDY}')


def _odd_kind(value: Tensor) -> str | None:
    if value.is_meta:
        return 'meta'
    if value.is_nested or value.layout is not torch.strided:
        return 'sparse or nested'
    if value.is_quantized:
        return 'quantized'
    return None
