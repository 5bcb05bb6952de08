"""Checks that the checkpoints of a run fit its model."""

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmnat.checkpoints.contents import check_meta, check_progress, plain_weights, versions
from mmnat.checkpoints.difference import load
from mmnat.checkpoints.latest import latest_checkpoint, other_checkpoints
from mmnat.checkpoints.reading import is_url, read_checkpoint
from mmnat.errors import CheckpointError, UserError, abbreviate
from mmnat.models.backbone import NeighborhoodBackbone

from .optimizer import Wrapper, check_optimizer_state
from .schedules import check_schedules


def check_checkpoint(path: str, model: nn.Module) -> None:
    """Check that a checkpoint holds all weights of a model.

    Args:
        path: The checkpoint. It is not checked if it is a URL.
        model: The model. The weights are loaded into it.
    """
    if is_url(path):
        return
    fit = _Fit(path, model)
    if fit.mismatched or fit.missing:
        raise fit.error('use the config that the checkpoint was trained with')


def check_resume(cfg: Config, model: nn.Module, optimizer: Wrapper | None) -> None:
    """Check the checkpoint from which a training resumes.

    Args:
        cfg: The config. Without ``load_from`` the training resumes from the latest checkpoint in
            ``work_dir``.
        model: The model. The weights are loaded into it.
        optimizer: The optimizer of the model, whose state and schedules are checked, too. Its settings are
            replaced.
    """
    path = cfg.get('load_from')
    if path is None:
        path = latest_checkpoint(cfg.work_dir)
    if is_url(path):
        return
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        others = other_checkpoints(path)
        hint = f', or resume from another one: {abbreviate([f"--resume {other}" for other in others], 3)}'
        raise CheckpointError(f'{error}{hint if others else ""}') from error
    check_checkpoint(path, model)
    lacks = [key for key in ('meta', 'message_hub', 'optimizer') if key not in checkpoint]
    if lacks:
        raise UserError(
            f'checkpoint {path} holds weights but no training state ({", ".join(lacks)})',
            f'start from its weights with --cfg-options load_from={path} instead of --resume',
        )
    check_progress(checkpoint, path)
    if optimizer is not None:
        check_optimizer_state(path, checkpoint['optimizer'], optimizer, cfg)
        check_schedules(path, checkpoint, optimizer, cfg)


def check_load_from(path: str, model: nn.Module) -> None:
    """Check a checkpoint whose weights a training starts from.

    Heads may differ, because their shapes depend on the number of classes. A neck may be missing.

    Args:
        path: The checkpoint. It is not checked if it is a URL.
        model: The model. The weights are loaded into it.
    """
    if is_url(path):
        return
    fit = _Fit(path, model)
    wrong = [key for key in fit.mismatched if 'head' not in key]
    wrong += [key for key in fit.missing if key.startswith('backbone.')]
    if wrong or not fit.matched:
        raise fit.error('use a checkpoint with the same backbone and neck, or unset load_from')


def check_pretrained(model: nn.Module) -> None:
    """Check the files from which ``init_cfg`` initializes parts of the model.

    Files at a URL are downloaded for our backbones. Other modules have their own loaders.

    Args:
        model: The model. The weights are loaded into it.
    """
    module: Any
    for module in model.modules():
        entries = getattr(module, 'init_cfg', None) or []
        for entry in [entries] if isinstance(entries, dict) else entries:
            ours = isinstance(module, NeighborhoodBackbone)
            if entry.get('type') == 'Pretrained' and (ours or not is_url(entry['checkpoint'])):
                module.init_weights()


class _Fit:
    """How the weights in a checkpoint fit a model.

    Args:
        path: The checkpoint.
        model: The model. The weights are loaded into it.
    """

    def __init__(self, path: str, model: nn.Module) -> None:
        self.path = path
        self.difference = load(model, _state_dict(path))
        self.missing = _without_counters(self.difference.missing)
        self.unexpected = _without_counters(self.difference.unexpected)
        self.mismatched = list(self.difference.shapes)
        self.total = len(_without_counters(model.state_dict()))
        self.matched = self.total - len(self.missing) - len(self.mismatched)

    def error(self, remedy: str) -> UserError:
        """Say what does not fit, with counts and the first examples."""
        parts = [f'{self.matched} of {self.total} tensors match']
        if self.mismatched:
            first = self.difference.shape_notes[0]
            parts.append(f'{len(self.mismatched)} differ in shape (first: {first})')
        if self.missing:
            parts.append(f'{len(self.missing)} are missing (first: {abbreviate(self.missing, 3)})')
        if self.unexpected:
            unknown = abbreviate(self.unexpected, 3)
            parts.append(f'{len(self.unexpected)} are unknown to the model (first: {unknown})')
        return UserError(
            f'checkpoint {self.path} does not fit the model of the config: {", ".join(parts)}',
            remedy,
        )


def _without_counters(names: Iterable[str]) -> list[str]:
    """Leave out the counters of batch norm: no result depends on them, and older checkpoints lack them."""
    return [name for name in names if not name.endswith('num_batches_tracked')]


def _state_dict(path: str) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(path)
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('state_dict'), dict):
        check_meta(checkpoint, path)
        checkpoint = checkpoint['state_dict']
    if not isinstance(checkpoint, dict) or not any(map(torch.is_tensor, checkpoint.values())):
        raise UserError(
            f'checkpoint {path} holds no state_dict',
            'give a checkpoint that `mmnat train` or model.state_dict() wrote',
        )
    weights = plain_weights(checkpoint.items(), path)
    # From them, modules see whether they have to rename keys.
    weights._metadata = versions(checkpoint, path)  # type: ignore[attr-defined]
    return weights
