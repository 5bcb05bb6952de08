"""Test-time augmentation."""

from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS
from torch import nn

from mmnat.config_tree import walk
from mmnat.errors import UserError

from .registries import check_type, registered


def check_tta(cfg: Config, model: nn.Module) -> None:
    """Check that ``tta_model`` can merge what a model predicts, and the types of ``tta_pipeline``.

    Args:
        cfg: The config, with both fields.
        model: The model.

    Raises:
        UserError: If not.
    """
    kind = cfg.tta_model.get('type')
    check_type(kind, 'tta_model.type', MODELS)
    for path, part in walk(cfg.tta_pipeline, 'tta_pipeline'):
        check_type(part.get('type'), f'{path}.type', TRANSFORMS)
    kind = registered(MODELS, kind) if isinstance(kind, str) else kind
    mask_head = _mask_head(model)
    if mask_head is not None and _merges_only_boxes(kind):
        boxes = f', or test only its boxes: --cfg-options {mask_head}=None test_evaluator.metric=bbox'
        raise UserError(
            f'--tta: {kind.__name__} of mmdet merges boxes, not the masks that {mask_head} predicts',
            'leave out --tta' + boxes * mask_head.startswith('model.roi_head.'),
        )


def _merges_only_boxes(kind: type) -> bool:
    """Whether the methods that merge are those of mmdet's DetTTAModel."""
    methods = ('merge_preds', '_merge_single_sample')
    owners = [next((base for base in kind.__mro__ if name in vars(base)), object) for name in methods]
    return all(owner.__name__ == 'DetTTAModel' for owner in owners)


def _mask_head(model: nn.Module) -> str | None:
    """The field of the head that predicts masks, if there is one."""
    for name in ('roi_head.mask_head', 'mask_head', 'panoptic_head'):
        part: Any = model
        for step in name.split('.'):
            part = getattr(part, step, None)
        if part is not None:
            return f'model.{name}'
    head = getattr(model, 'bbox_head', None)
    is_mask_head = any(base.__name__ == 'RTMDetInsHead' for base in type(head).__mro__)
    return 'model.bbox_head' if is_mask_head else None
