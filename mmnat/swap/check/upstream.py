"""Faults of the installed frameworks that keep models from running with any backbone, mended here."""

import functools
import inspect

from torch import Tensor, nn


def mend(model: nn.Module) -> list[str]:
    """Mend what is known to be broken in a model, and say what it was."""
    menders = (_mend_ssd, _mend_grounding_dino, _mend_masked_convolutions, _mend_unclipped_masks)
    mended = [mender(model) for mender in menders]
    return [said for said in mended if said]


def _mend_ssd(model: nn.Module) -> str | None:
    head = getattr(model, 'bbox_head', None)
    if type(head).__name__ not in ('SSDHead', 'PISASSDHead') or hasattr(head, 'loss_cls'):
        return None
    head.loss_cls = None
    return 'SSDHead has no loss_cls, which its prediction asks for'


def _mend_grounding_dino(model: nn.Module) -> str | None:
    decoder = getattr(model, 'decoder', None)
    if type(decoder).__name__ != 'GroundingDinoTransformerDecoder':
        return None
    from mmdet.models.layers.transformer.utils import MLP

    first = decoder.ref_point_head.layers[0]
    inherited = 4 * decoder.embed_dims  # what the forward of DINO's decoder gives since mmdet 3.5
    if first.in_features == inherited or not _encodes_by_query():
        return None
    decoder.ref_point_head = MLP(inherited, decoder.embed_dims, decoder.embed_dims, 2)
    return "GroundingDINO's decoder takes half of the position encoding that DINO's forward gives it"


def _mend_masked_convolutions(model: nn.Module) -> str | None:
    if not any(type(module).__name__ == 'MaskedConv2d' for module in model.modules()):
        return None
    from mmcv.ops import MaskedConv2d

    for module in model.modules():
        if isinstance(module, MaskedConv2d):
            module.forward = functools.partial(_convolve_all, module)
    return 'MaskedConv2d of mmcv has no kernel for the CPU, a dense convolution takes its place'


def _convolve_all(module: nn.Conv2d, features: Tensor, mask: Tensor | None = None) -> Tensor:
    output = nn.Conv2d.forward(module, features)
    return output if mask is None else output * mask[:, None].to(output.dtype)


def _mend_unclipped_masks(model: nn.Module) -> str | None:
    if type(model).__name__ != 'QueryInst':
        return None
    for module in model.modules():
        if hasattr(module, 'bbox_coder'):
            module.bbox_coder.clip_border = True
    return 'QueryInst on the CPU fails to paste masks of boxes that lie outside the image, they are clipped'


def _encodes_by_query() -> bool:
    from mmdet.models.layers.transformer.dino_layers import DinoTransformerDecoder

    return 'num_feats=query.shape[2]' in inspect.getsource(DinoTransformerDecoder.forward)
