"""Detectron2's Mask2Former on DiNAT-Large, as SHI-Labs released it.

This was written without the released files. The names come from the source code: the release's D2DiNAT,
Mask2Former's MSDeformAttnPixelDecoder and MultiScaleMaskedTransformerDecoder, and mmdet's
MSDeformAttnPixelDecoder and Mask2FormerHead, which mmseg uses too. The tests write files in that layout.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .architecture import has_blocks
from .renaming import Conversion, Rule, rename

NAME = "the NAT release's Mask2Former (Detectron2)"
_PIXEL = r'sem_seg_head\.pixel_decoder\.'
_ENCODER = _PIXEL + r'transformer\.encoder\.layers\.(\d+)\.'
_PREDICTOR = r'sem_seg_head\.predictor\.'
_CLASSES = tuple(f'sem_seg_head.predictor.class_embed.{leaf}' for leaf in ('weight', 'bias'))

# The stuff classes of a panoptic model, by its number of classes. For mmdet's panoptic heads the first
# classes are things. Detectron2 mixes things with stuff (ADE20K) or puts them after it (Cityscapes).
# fmt: off
_STUFF = {
    133: range(80, 133),  # COCO
    150: (  # ADE20K
        0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59,
        60, 61, 63, 68, 77, 79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128,
        131, 140, 141, 145,
    ),
    19: range(11),  # Cityscapes
}
# fmt: on


def recognizes(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a Mask2Former on one of our backbones."""
    named = any(name.startswith('sem_seg_head.predictor.') for name in weights)
    return named and has_blocks(weights, 'backbone.')


def convert(weights: Mapping[str, Tensor], model: nn.Module | None) -> Conversion:
    """Rename the weights, and put the classes of a panoptic model in mmdet's order.

    Args:
        weights: Name to tensor.
        model: A segmentor of mmseg or a detector of mmdet; None means a detector.
    """
    if hasattr(model, 'decode_head'):
        return rename(weights, _rules('decode_head'))
    order = _mmdet_order(weights, model)
    reordered = {name: weights[name][torch.tensor(order)] for name in _CLASSES if order}
    result = rename({**weights, **reordered}, _rules('panoptic_head'))
    if order:
        count = len(order) - 1
        stuff = len(_STUFF[count])
        result.steps.append(
            f'taken for a panoptic model: {count} classes reordered, {count - stuff} things, then {stuff}'
            ' stuff (of a semantic model give the --config)'
        )
    return result


def _rules(head: str) -> list[Rule]:
    pixel, decoder = f'{head}.pixel_decoder.', f'{head}.transformer_decoder.'
    rules = [
        (_PIXEL + r'input_proj\.(\d+)\.0\.(.+)', rf'{pixel}input_convs.\1.conv.\2'),
        (_PIXEL + r'input_proj\.(\d+)\.1\.(.+)', rf'{pixel}input_convs.\1.gn.\2'),
        (_PIXEL + r'adapter_1\.norm\.(.+)', rf'{pixel}lateral_convs.0.gn.\1'),
        (_PIXEL + r'adapter_1\.(.+)', rf'{pixel}lateral_convs.0.conv.\1'),
        (_PIXEL + r'layer_1\.norm\.(.+)', rf'{pixel}output_convs.0.gn.\1'),
        (_PIXEL + r'layer_1\.(.+)', rf'{pixel}output_convs.0.conv.\1'),
        (_PIXEL + r'mask_features\.(.+)', rf'{pixel}mask_feature.\1'),
        (_PIXEL + r'transformer\.level_embed', f'{pixel}level_encoding.weight'),
        (_ENCODER + r'(self_attn\..+)', rf'{pixel}encoder.layers.\1.\2'),
        (_ENCODER + r'norm1\.(.+)', rf'{pixel}encoder.layers.\1.norms.0.\2'),
        (_ENCODER + r'linear1\.(.+)', rf'{pixel}encoder.layers.\1.ffn.layers.0.0.\2'),
        (_ENCODER + r'linear2\.(.+)', rf'{pixel}encoder.layers.\1.ffn.layers.1.\2'),
        (_ENCODER + r'norm2\.(.+)', rf'{pixel}encoder.layers.\1.norms.1.\2'),
    ]
    in_layer = [
        ('cross_attention', 'multihead_attn', 'cross_attn.attn'),
        ('cross_attention', 'norm', 'norms.0'),
        ('self_attention', 'self_attn', 'self_attn.attn'),
        ('self_attention', 'norm', 'norms.1'),
        ('ffn', 'linear1', 'ffn.layers.0.0'),
        ('ffn', 'linear2', 'ffn.layers.1'),
        ('ffn', 'norm', 'norms.2'),
    ]
    rules += [
        (
            _PREDICTOR + rf'transformer_{kind}_layers\.(\d+)\.{theirs}\.(.+)',
            rf'{decoder}layers.\1.{ours}.\2',
        )
        for kind, theirs, ours in in_layer
    ]
    return [
        *rules,
        (_PREDICTOR + r'decoder_norm\.(.+)', rf'{decoder}post_norm.\1'),
        (_PREDICTOR + r'input_proj\.(.+)', rf'{head}.decoder_input_projs.\1'),
        (_PREDICTOR + r'class_embed\.(.+)', rf'{head}.cls_embed.\1'),
        # mmdet has a Sequential, whose numbers include the activations between the layers.
        (
            _PREDICTOR + r'mask_embed\.layers\.(\d{1,4})\.(.+)',
            lambda match: f'{head}.mask_embed.{2 * int(match[1])}.{match[2]}',
        ),
        (_PREDICTOR + r'((?:query_feat|query_embed|level_embed)\..+)', rf'{head}.\1'),
        # The weight of "no object" in the loss; in mmdet it is in the config.
        (r'criterion\.empty_weight', None),
        (r'pixel_(?:mean|std)', None),
    ]


def _mmdet_order(weights: Mapping[str, Tensor], model: nn.Module | None) -> list[int]:
    """The old index of each class of a panoptic model in mmdet's order; empty if nothing changes."""
    outputs = [len(weights[name]) for name in _CLASSES if name in weights and weights[name].dim()]
    if len(outputs) != len(_CLASSES) or len(set(outputs)) != 1:
        return []  # the comparison with the model will report it
    count = outputs[0] - 1  # without "no object"
    stuff = _STUFF.get(count, ())
    of_model = getattr(getattr(model, 'panoptic_head', None), 'num_stuff_classes', len(stuff))
    order = [*(i for i in range(count) if i not in stuff), *stuff, count]
    return order if of_model == len(stuff) and order != sorted(order) else []
