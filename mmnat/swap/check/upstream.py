"""Faults of installed packages that stop models, whatever the backbone, and how to mend them in memory."""

import functools
import importlib
import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Fault:
    """A fault of an installed package.

    Attributes:
        package: The package's import name.
        description: What is wrong.
    """

    package: str
    description: str

    def __str__(self) -> str:
        version = getattr(importlib.import_module(self.package), '__version__', '')
        return f'{self.package} {version}: {self.description}'


def mend(model: nn.Module) -> list[Fault]:
    """Mend the known faults of a model's classes, in this model only.

    Returns:
        The faults.
    """
    menders = (_mend_ssd, _mend_grounding_dino, _mend_masked_convolutions, _mend_unclipped_masks)
    faults = [mender(model) for mender in menders]
    return [fault for fault in faults if fault is not None]


def _mend_ssd(model: nn.Module) -> Fault | None:
    head: Any = getattr(model, 'bbox_head', None)
    if type(head).__name__ not in ('SSDHead', 'PISASSDHead') or hasattr(head, 'loss_cls'):
        return None
    head.loss_cls = None
    return Fault('mmdet', 'SSDHead has no loss_cls, which its prediction asks for')


def _mend_grounding_dino(model: nn.Module) -> Fault | None:
    decoder: Any = getattr(model, 'decoder', None)
    if type(decoder).__name__ != 'GroundingDinoTransformerDecoder':
        return None
    from mmdet.models.layers.transformer.utils import MLP

    first = decoder.ref_point_head.layers[0]
    inherited = 4 * decoder.embed_dims  # what the forward of DINO's decoder gives since mmdet 3.5
    if first.in_features == inherited or not _encodes_by_query():
        return None
    decoder.ref_point_head = MLP(inherited, decoder.embed_dims, decoder.embed_dims, 2)
    return Fault(
        'mmdet', "GroundingDINO's decoder takes half of the position encoding that DINO's forward gives it"
    )


def _mend_masked_convolutions(model: nn.Module) -> Fault | None:
    if not any(type(module).__name__ == 'MaskedConv2d' for module in model.modules()):
        return None
    from mmcv.ops import MaskedConv2d

    for module in model.modules():
        if isinstance(module, MaskedConv2d):
            module.forward = functools.partial(_convolve_all, module)
    return Fault('mmcv', 'MaskedConv2d has no kernel for the CPU, a dense convolution takes its place')


def _convolve_all(module: nn.Conv2d, features: Tensor, mask: Tensor | None = None) -> Tensor:
    output = nn.Conv2d.forward(module, features)
    return output if mask is None else output * mask[:, None].to(output.dtype)


def _mend_unclipped_masks(model: nn.Module) -> Fault | None:
    if type(model).__name__ != 'QueryInst':
        return None
    module: Any
    for module in model.modules():
        if hasattr(module, 'bbox_coder'):
            module.bbox_coder.clip_border = True
    return Fault(
        'mmdet',
        'QueryInst on the CPU fails to paste masks of boxes that lie outside the image, they are clipped',
    )


def _encodes_by_query() -> bool:
    from mmdet.models.layers.transformer.dino_layers import DinoTransformerDecoder

    return 'num_feats=query.shape[2]' in inspect.getsource(DinoTransformerDecoder.forward)
