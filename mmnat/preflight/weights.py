"""Whether the checkpoints of a run fit its model."""

import re

import torch
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint
from torch import nn

from mmnat.checkpoints.reading import is_url, read_checkpoint
from mmnat.errors import UserError, abbreviate
from mmnat.models.backbone import NeighborhoodBackbone

_SIZE_MISMATCH = re.compile(r'size mismatch for (?P<key>[^:]+): (?P<shapes>.+)')


def check_checkpoint(path: str, model: nn.Module) -> None:
    """Check that a checkpoint holds all weights of a model.

    Args:
        path (str): The checkpoint; one at a URL is not checked.
        model (nn.Module): The model. The weights are loaded into it.
    """
    if is_url(path):
        return
    fit = _Fit(path, model)
    if fit.mismatched or fit.missing:
        raise fit.error('use the config that the checkpoint was trained with')


def check_resume(cfg: Config, model: nn.Module) -> None:
    """Check the checkpoint that training is to go on from.

    Args:
        cfg (Config): The config; without ``load_from`` the latest checkpoint in ``work_dir``
            is meant.
        model (nn.Module): The model. The weights are loaded into it.
    """
    path = cfg.get('load_from')
    if path is None:
        path = _latest_checkpoint(cfg.work_dir)
    if is_url(path):
        return
    check_checkpoint(path, model)
    checkpoint = read_checkpoint(path)
    lacks = [key for key in ('meta', 'message_hub', 'optimizer') if key not in checkpoint]
    if lacks:
        raise UserError(
            f'checkpoint {path} holds weights but no training state ({", ".join(lacks)})',
            f'start from its weights with --cfg-options load_from={path} instead of --resume',
        )


def check_load_from(path: str, model: nn.Module) -> None:
    """Check a checkpoint whose weights training is to start from.

    Heads may differ, since their shapes follow the number of classes; a neck may be absent.

    Args:
        path (str): The checkpoint; one at a URL is not checked.
        model (nn.Module): The model. The weights are loaded into it.
    """
    if is_url(path):
        return
    fit = _Fit(path, model)
    wrong = [key for key in fit.mismatched if 'head' not in key]
    wrong += [key for key in fit.missing if key.startswith('backbone.')]
    if wrong or not fit.matched:
        raise fit.error('use a checkpoint with the same backbone and neck, or unset load_from')


def check_pretrained(model: nn.Module) -> None:
    """Check the files that ``init_cfg`` initializes parts of the model from.

    Those at a URL are downloaded for our backbones; other modules have loaders of their own.

    Args:
        model (nn.Module): The model. The weights are loaded into it.
    """
    for module in model.modules():
        entries = getattr(module, 'init_cfg', None) or []
        for entry in [entries] if isinstance(entries, dict) else entries:
            ours = isinstance(module, NeighborhoodBackbone)
            if entry['type'] == 'Pretrained' and (ours or not is_url(entry['checkpoint'])):
                module.init_weights()


class _Fit:
    """How the weights in a checkpoint fit a model.

    Args:
        path (str): The checkpoint.
        model (nn.Module): The model. The weights are loaded into it, by which renaming of
            keys from older versions takes place.
    """

    def __init__(self, path: str, model: nn.Module) -> None:
        self.path = path
        weights = _state_dict(path)
        # Counters that no result depends on, and that older checkpoints do not have.
        ignored = 'num_batches_tracked'
        expected = {key for key in model.state_dict() if not key.endswith(ignored)}
        self.shapes = dict[str, str]()
        try:
            missing, unexpected = model.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            self.shapes = {m['key']: m['shapes'] for m in _SIZE_MISMATCH.finditer(str(error))}
            if not self.shapes:
                raise
            missing = [key for key in model.state_dict() if key not in weights]
            unexpected = [key for key in weights if key not in expected]
        self.mismatched = list(self.shapes)
        self.missing = [key for key in missing if key in expected]
        self.unexpected = [key for key in unexpected if not key.endswith(ignored)]
        self.total = len(expected)
        self.matched = self.total - len(self.missing) - len(self.mismatched)

    def error(self, remedy: str) -> UserError:
        """Say what does not fit, with counts and the first examples."""
        parts = [f'{self.matched} of {self.total} tensors match']
        if self.mismatched:
            shapes = [f'{key}: {shape}' for key, shape in self.shapes.items()]
            parts.append(f'{len(shapes)} differ in shape (first: {shapes[0].rstrip(".")})')
        if self.missing:
            parts.append(f'{len(self.missing)} are missing (first: {abbreviate(self.missing, 3)})')
        if self.unexpected:
            unknown = abbreviate(self.unexpected, 3)
            parts.append(f'{len(self.unexpected)} are unknown to the model (first: {unknown})')
        return UserError(
            f'checkpoint {self.path} does not fit the model of the config: {", ".join(parts)}',
            remedy,
        )


def _state_dict(path: str) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(path)
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('state_dict'), dict):
        checkpoint = checkpoint['state_dict']
    if not isinstance(checkpoint, dict) or not any(map(torch.is_tensor, checkpoint.values())):
        raise UserError(
            f'checkpoint {path} holds no state_dict',
            'give a checkpoint that `mmnat train` or model.state_dict() wrote',
        )
    metadata = getattr(checkpoint, '_metadata', None)
    weights = {re.sub(r'^module\.', '', key): value for key, value in checkpoint.items()}
    weights = type(checkpoint)(weights)
    if metadata is not None:
        # Modules tell from it whether keys have to be renamed.
        weights._metadata = metadata
    return weights


def _latest_checkpoint(work_dir: str) -> str:
    latest = find_latest_checkpoint(work_dir)
    if latest is None:
        raise UserError(
            f'--resume finds no checkpoint in {work_dir}',
            'leave out --resume to start anew, or name the checkpoint: --resume PATH',
        )
    return latest
