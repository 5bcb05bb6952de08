"""Loads published weights into a backbone, from classification, detection or segmentation checkpoints."""

import re
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from mmnat.checkpoints.contents import plain_weights
from mmnat.checkpoints.difference import compare
from mmnat.checkpoints.reading import WITHOUT_WEIGHTS, local_file, read_checkpoint
from mmnat.errors import CheckpointError

#: The names under which checkpoints hold weights. If timm saved averaged weights too, those were published.
STATE_DICTS = ('state_dict_ema', 'state_dict', 'model')
# A classifier's last norm and head, which are not part of the backbone. The names of the backbone's own
# norms have a number.
_CLASSIFIER = re.compile(r'(norm|head)\.')
# Only models for dense prediction have output norms.
_OUTPUT_NORM = re.compile(r'norm\d+\.')


def require_pretrained(path: str) -> None:
    """Find the file of pretrained weights, and download it if necessary.

    Raises:
        CheckpointError: If the file does not exist or cannot be downloaded.
    """
    local_file(
        path,
        'correct the path, give the URL of a published one (they are in the configs and in'
        f' mmnat/models/published.py), or {WITHOUT_WEIGHTS}',
    )


def load_pretrained(backbone: nn.Module, path: str, prefix: str = '') -> None:
    """Load published weights into a backbone, and log which were missing or not used.

    The file is a state dict or has one under one of :data:`STATE_DICTS`. The prefixes 'module.' and
    'backbone.' are removed, neck and heads are ignored, and relative position biases of another kernel
    size are resized. Output norms that the checkpoint lacks keep their initial values.

    Args:
        backbone: NAT, DiNAT or DiNAT_s.
        path: Local file or URL.
        prefix: Prefix of the backbone's keys in the checkpoint. If it is empty, 'backbone.' is tried.

    Raises:
        CheckpointError: If the file cannot be read, or its weights are of another architecture.
    """
    source = backbone_weights(read_checkpoint(path), path, prefix)
    target = backbone.state_dict()
    resized = []
    for name, weight in source.items():
        if name.endswith('.rpb') and name in target and weight.shape != target[name].shape:
            source[name] = resize_rpb(weight, target[name].shape, name, path)
            resized.append(name)
    difference = compare(source, target)
    missing, unexpected = sorted(difference.missing), sorted(difference.unexpected)
    wrong = difference.shape_notes
    wrong += [f'{name} is missing' for name in missing if not _OUTPUT_NORM.match(name)]
    wrong += [f'{name} is not in the model' for name in unexpected if not _OUTPUT_NORM.match(name)]
    if wrong:
        raise CheckpointError(
            f'checkpoint {path} is of another architecture than the {type(backbone).__name__} it was to'
            f' initialize: {len(wrong)} differences, {"; ".join(wrong[:3])}; give the weights of the same'
            ' variant, or make arch, depths and layer_scale of the backbone those of the weights'
        )
    backbone.load_state_dict(source, strict=False)
    print_log(
        f'{len(source) - len(unexpected)} tensors loaded from {path}; initialized anew:'
        f' {", ".join(missing) or "none"}; not used: {", ".join(unexpected) or "none"};'
        f' resized: {len(resized)} relative position biases',
        logger='current',
    )


def backbone_weights(checkpoint: object, path: str, prefix: str = '') -> dict[str, Tensor]:
    """The weights of the backbone in a classification, detection or segmentation checkpoint.

    Args:
        checkpoint: The content of the file.
        path: The file, for messages.
        prefix: As for :func:`load_pretrained`.

    Raises:
        CheckpointError: If the file holds no weights.
    """
    weights = state_dict_of(checkpoint, path)
    start = prefix or 'backbone.'
    detector = {
        name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)
    }
    if prefix and not detector:
        raise CheckpointError(f'checkpoint {path} has no keys that start with {prefix!r}; correct prefix')
    return detector or {name: value for name, value in weights.items() if not _CLASSIFIER.match(name)}


def state_dict_of(checkpoint: object, path: str) -> dict[str, Tensor]:
    """The weights in a checkpoint, without the prefix of data parallelism.

    Args:
        checkpoint: The content of the file: a state dict, or one under one of :data:`STATE_DICTS`.
        path: The file, for messages.

    Raises:
        CheckpointError: If the file holds no weights.
    """
    for name in STATE_DICTS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
    entries = checkpoint.items() if isinstance(checkpoint, Mapping) else ()
    # Detectron2 saves arrays as well.
    as_tensors = ((name, _as_tensor(value)) for name, value in entries if isinstance(name, str))
    weights = dict(plain_weights(as_tensors, path))
    if not weights:
        raise CheckpointError(f'checkpoint {path} holds no state dict; give a file of weights')
    return weights


def _as_tensor(value: object) -> object:
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biuf' and value.dtype.isnative:
        return torch.as_tensor(value)
    return value


def resize_rpb(rpb: Tensor, shape: torch.Size, name: str = 'rpb', path: str = '') -> Tensor:
    """Resize a relative position bias to another kernel size: bicubic, with aligned corners.

    Args:
        rpb: ``(heads, 2 * k_h - 1, 2 * k_w - 1)``.
        shape: The new shape, with the same number of heads.
        name: Name of the parameter, for messages.
        path: The checkpoint, for messages.

    Raises:
        CheckpointError: If the number of heads differs.
    """
    if rpb.dim() != 3 or rpb.shape[0] != shape[0]:
        raise CheckpointError(
            f'checkpoint {path} is of another architecture: {name} is {tuple(rpb.shape)} in the file and'
            f' {tuple(shape)} in the model, which has {shape[0]} heads; give weights of the same variant'
        )
    return F.interpolate(rpb[None], shape[1:], mode='bicubic', align_corners=True)[0]
