"""Builds the model that a state dict has to fit, without memory for its weights."""

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmnat.config import read_config, require_fields
from mmnat.config_files import project_folder
from mmnat.errors import UserError
from mmnat.models import BACKBONES
from mmnat.preflight.models import build_model

from .architecture import backbone_settings, model_kind

_MODELS = project_folder() / 'configs/_base_/models'


@dataclass(frozen=True)
class Expected:
    """A model that weights have to fit.

    Attributes:
        state_dict: Name to tensor, without memory.
        description: The model in words.
    """

    state_dict: dict[str, Tensor]
    description: str


def configured_model(path: str) -> nn.Module:
    """Build the model of a config."""
    cfg = read_config(path)
    require_fields(cfg, 'model')
    if 'backbone' not in cfg.model:
        raise UserError(f'the model of config {path} has no backbone', 'name the config of another model')
    with torch.device('meta'):
        return build_model(cfg)


def expected_by(config: str, model: Any, weights: Mapping[str, Tensor]) -> Expected:
    """The model of a config; if the weights are those of a backbone alone, only its backbone.

    Args:
        config: The config, for messages.
        model: Its model.
        weights: Name to tensor, with the names of today's models.
    """
    if _is_whole(weights):
        return Expected(model.state_dict(), f'the model of {config}')
    return Expected(model.backbone.state_dict(), f'the backbone of {config}')


def expected_of(weights: Mapping[str, Tensor], path: str) -> Expected:
    """Infer the model from the names and shapes of its weights.

    Args:
        weights: Name to tensor, with the names of today's models.
        path: The file, for messages.
    """
    whole = _is_whole(weights)
    settings = backbone_settings(weights, 'backbone.' if whole else '', path)
    family = 'NAT or DiNAT' if settings['type'] == 'NAT' else settings['type']
    arguments = ', '.join(f'{name}={value}' for name, value in settings.items() if name != 'type')
    backbone = f'{family} ({arguments})'
    settings['out_indices'] = range(len(settings['depths']))
    if settings['type'] == 'DiNAT_s':
        settings['dilations'] = [[1] * depth for depth in settings['depths']]
    if not whole:
        return Expected(_backbone(settings, path).state_dict(), backbone)
    kind = model_kind(weights, path)
    return Expected(_whole_model(kind, settings, weights).state_dict(), f'{kind} on {backbone}')


def _is_whole(weights: Mapping[str, Tensor]) -> bool:
    return any(name.startswith('backbone.') for name in weights)


def _backbone(settings: dict[str, Any], path: str) -> nn.Module:
    arguments = {name: value for name, value in settings.items() if name != 'type'}
    try:
        with torch.device('meta'):
            return BACKBONES[settings['type']](**arguments)
    except ValueError as error:
        raise UserError(
            f'checkpoint {path} is of a backbone that does not exist: {error}', 'copy or download it again'
        ) from error


def _whole_model(kind: str, settings: dict[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    base, framework, adapt = _TEMPLATES[kind]
    bases = [str(base), f'{framework}::_base_/default_runtime.py'] if isinstance(base, Path) else [base]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / 'model.py'
        imports = dict(imports=[f'{framework}_nat'])
        config.write_text(f'_base_ = {bases!r}\ncustom_imports = {imports!r}\n')
        cfg = read_config(str(config))
    cfg.model.backbone = settings
    channels = [settings['embed_dim'] * 2**level for level in range(len(settings['depths']))]
    adapt(cfg.model, channels, weights)
    with torch.device('meta'):
        return build_model(cfg)


def _adapt_mask_rcnn(model: Any, channels: list[int], weights: Mapping[str, Tensor]) -> None:
    model.neck.in_channels = channels
    heads = model.roi_head.bbox_head
    heads = heads if isinstance(heads, list) else [heads]
    # Each stage of a cascade has its own.
    name = r'roi_head\.mask_head\.(?:0\.)?conv_logits\.weight'
    for head in (*heads, model.roi_head.mask_head):
        head.num_classes = _outputs(weights, name, head.num_classes)


def _adapt_upernet(model: Any, channels: list[int], weights: Mapping[str, Tensor]) -> None:
    model.decode_head.in_channels = channels
    model.auxiliary_head.in_channels = channels[model.auxiliary_head.in_index]
    for head in (model.decode_head, model.auxiliary_head):
        head.num_classes = _outputs(weights, r'decode_head\.conv_seg\.weight', head.num_classes)
    if not any(name.startswith('auxiliary_head.') for name in weights):
        model.auxiliary_head = None


def _adapt_mask2former(model: Any, channels: list[int], weights: Mapping[str, Tensor]) -> None:
    head = model.panoptic_head
    head.in_channels = channels
    head.num_queries = _outputs(weights, r'panoptic_head\.query_feat\.weight', head.num_queries)
    # Only their sum shows in the weights.
    head.num_things_classes = _outputs(weights, r'panoptic_head\.cls_embed\.weight', 134) - 1
    head.num_stuff_classes = 0


def _outputs(weights: Mapping[str, Tensor], pattern: str, default: int) -> int:
    """Outputs of a layer; the default if it is missing or broken, which the comparison will report."""
    shapes = (weight.shape for name, weight in weights.items() if re.fullmatch(pattern, name))
    return next((shape[0] for shape in shapes if shape), default)


# For each kind: the config to start from, its framework, and the function that adapts it to the weights.
_TEMPLATES: dict[str, tuple[Path | str, str, Callable[[Any, list[int], Mapping[str, Tensor]], None]]] = {
    'Mask R-CNN': (_MODELS / 'mask-rcnn_nat_fpn.py', 'mmdet', _adapt_mask_rcnn),
    'Cascade Mask R-CNN': (_MODELS / 'cascade-mask-rcnn_nat_fpn.py', 'mmdet', _adapt_mask_rcnn),
    'UPerNet': (_MODELS / 'upernet_nat.py', 'mmseg', _adapt_upernet),
    'Mask2Former': (
        'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
        'mmdet',
        _adapt_mask2former,
    ),
}
