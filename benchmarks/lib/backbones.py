"""Backbones of comparable size: NAT-Tiny, DiNAT-Tiny, and mmdet's Swin-Tiny."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmdet.models.backbones.swin import SwinTransformer
from torch import nn

from mmnat.models import NAT, DiNAT

from .workload import TRAINING, Computation

# Strides of the four feature maps.
STRIDES = (4, 8, 16, 32)
SWIN = 'Swin-Tiny'


def _dinat(height: int, width: int) -> DiNAT:
    """DiNAT-Tiny whose blocks alternate between local and the widest windows, as the published ones do."""
    widest = [max(min(height, width) // stride // 7, 1) for stride in STRIDES]
    depths = DiNAT.arch_zoo['tiny']['depths']
    dilations = [
        [wide if i % 2 else 1 for i in range(depth)] for wide, depth in zip(widest, depths, strict=True)
    ]
    return DiNAT(dilations, 'tiny')


BACKBONES: dict[str, Callable[[int, int], nn.Module]] = {
    'NAT-Tiny': lambda height, width: NAT('tiny'),
    'DiNAT-Tiny': _dinat,
    SWIN: lambda height, width: SwinTransformer(),
}


@dataclass(frozen=True)
class BackboneWorkload:
    """A backbone over one image: forward in evaluation mode, or forward and backward in training mode.

    Attributes:
        name: In :data:`BACKBONES`.
        height: Of the image.
        width: Of the image.
        direction: One of :data:`benchmarks.lib.workload.DIRECTIONS`.
        device: Name of the device.
    """

    name: str
    height: int
    width: int
    direction: str
    device: str

    def build(self) -> Computation:
        """Make backbone and image; only the parameters want gradients."""
        backbone = BACKBONES[self.name](self.height, self.width).to(self.device)
        # mmdet's backbone does not return itself.
        backbone.train(self.direction == TRAINING)
        image = torch.randn(1, 3, self.height, self.width, device=self.device)
        gradients = [
            torch.randn(
                1, channels, -(-self.height // stride), -(-self.width // stride), device=self.device
            )
            for channels, stride in zip(backbone.num_features, STRIDES, strict=True)
        ]
        return Computation(lambda: backbone(image), list(backbone.parameters()), gradients)

    def warm_up(self) -> 'BackboneWorkload':
        """A small image."""
        return dataclasses.replace(self, height=64, width=64)
