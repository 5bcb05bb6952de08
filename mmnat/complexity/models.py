"""Counts a model as the published figures do: which parts count, and on which input.

Backbone, neck and heads count on one image; in two-stage detectors the box heads on 1000 regions and the
mask heads on 100; in segmentors all but the auxiliary head. Each multiply-accumulate of matrix products,
convolutions and attention counts once. Norms, activations, biases and resampling do not count.
"""

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmnat.config import require_fields
from mmnat.errors import UserError
from mmnat.preflight.models import build_model

from .counting import count, without_memory

BOX_REGIONS, MASK_REGIONS = 1000, 100
_HEADS = ('panoptic_head', 'decode_head', 'bbox_head')


def build_without_memory(cfg: Config) -> nn.Module:
    """Build the model of a config on the meta device."""
    require_fields(cfg, 'model')
    with torch.device('meta'):
        return build_model(cfg)


def count_parameters(model: nn.Module) -> int:
    """Count all parameters, with those of the auxiliary heads."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: Any, size: tuple[int, int]) -> dict[str, int]:
    """Count the multiply-accumulates of a forward pass on one image.

    Args:
        model: A detector of mmdet or a segmentor of mmseg on the meta device. It cannot be used afterwards.
        size: Height and width of the image in pixels.

    Returns:
        The number for each part of the model.

    Raises:
        UserError: If there is no rule which parts of such a model count.
    """
    with without_memory(model):
        image = torch.empty(1, 3, *size)
        macs = {}
        features, macs['backbone'] = count(model.backbone, image)
        if getattr(model, 'neck', None) is not None:
            features, macs['neck'] = count(model.neck, features)
        if getattr(model, 'encoder', None) is not None or hasattr(model, 'decoder'):
            raise _unknown(model)  # transformers between neck and head
        if hasattr(model, 'roi_head'):
            return macs | _two_stage(model, features)
        for name in _HEADS:
            head = getattr(model, name, None)
            if isinstance(head, nn.Module) and not isinstance(head, nn.ModuleList):
                extra = [_samples(size)] if hasattr(head, 'transformer_decoder') else []
                return macs | {name: count(head, features, *extra)[1]}
    raise _unknown(model)


def _unknown(model: nn.Module) -> UserError:
    return UserError(
        f'of a {type(model).__name__} it is not known which parts to count',
        'count two-stage and dense detectors, Mask2Former and segmentors with one head',
    )


def _two_stage(model: Any, features: Iterable[Tensor]) -> dict[str, int]:
    macs = {}
    if hasattr(model, 'rpn_head'):
        macs['rpn_head'] = count(model.rpn_head, features)[1]
    for kind, regions in (('bbox', BOX_REGIONS), ('mask', MASK_REGIONS)):
        heads = _as_list(getattr(model.roi_head, f'{kind}_head', None))
        extractors = _as_list(getattr(model.roi_head, f'{kind}_roi_extractor', None))
        if heads:
            macs[f'{kind}_head'] = sum(
                count(head, _regions(extractor, regions))[1]
                for head, extractor in zip(heads, extractors, strict=True)
            )
    return macs


def _as_list(modules: nn.Module | None) -> list[nn.Module]:
    if modules is None:
        return []
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def _regions(extractor: Any, number: int) -> Tensor:
    """The output of a region extractor, which is the input of a head."""
    return torch.empty(number, extractor.out_channels, *extractor.roi_layers[0].output_size)


def _samples(size: tuple[int, int]) -> list:
    """The description of the image, which heads with queries need."""
    from mmengine.structures import BaseDataElement

    return [BaseDataElement(metainfo=dict(img_shape=size, batch_input_shape=size, pad_shape=size))]
