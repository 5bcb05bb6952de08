"""Backbones alone: the published ImageNet classifiers of NAT, DiNAT and DiNAT_s."""

from collections.abc import Mapping

from torch import Tensor

from mmnat.models.pretrained import backbone_weights

from .architecture import has_blocks
from .renaming import Conversion

NAME = 'a classifier or backbone of the NAT release'


def recognizes(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a backbone, with or without a classifier's head."""
    return has_blocks(weights, '') or has_blocks(weights, 'backbone.')


def convert(weights: Mapping[str, Tensor]) -> Conversion:
    """Keep the backbone, and drop the last norm and the head of the classifier."""
    prefix = 'backbone.' if has_blocks(weights, 'backbone.') else ''
    kept = backbone_weights(weights, '')
    steps = [f"removed 'backbone.' from {len(kept)} names"] if prefix else []
    dropped = [name for name in weights if name.removeprefix(prefix) not in kept]
    return Conversion(kept, steps, dropped)
