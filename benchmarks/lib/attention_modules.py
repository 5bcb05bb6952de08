"""Attention modules with their projections: neighborhood attention, and Swin Transformer's of mmdet."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmdet.models.backbones.swin import ShiftWindowMSA
from torch import Tensor, nn

from natten_ops import NeighborhoodAttention2D

from .workload import TRAINING, Computation

WINDOW = 7
NEIGHBORHOOD = 'NeighborhoodAttention2D'
# Swin's blocks alternate between the two.
SWIN_SHIFTS = {'ShiftWindowMSA window': 0, 'ShiftWindowMSA shifted': WINDOW // 2}


@dataclass(frozen=True)
class ModuleWorkload:
    """An attention module over one feature map of a batch of one.

    Attributes:
        name: :data:`NEIGHBORHOOD` or of :data:`SWIN_SHIFTS`.
        height: Of the feature map, in tokens.
        width: Of the feature map, in tokens.
        dim: Channels.
        heads: Attention heads.
        direction: One of :data:`benchmarks.lib.workload.DIRECTIONS`.
        device: Name of the device.
    """

    name: str
    height: int
    width: int
    dim: int
    heads: int
    direction: str
    device: str

    def build(self) -> Computation:
        """Make module and input, which wants a gradient like the parameters."""
        tokens = torch.randn(1, self.height, self.width, self.dim, device=self.device)
        if self.name == NEIGHBORHOOD:
            module: nn.Module = NeighborhoodAttention2D(self.dim, self.heads, WINDOW)
            arguments: tuple = ()
        else:
            module = ShiftWindowMSA(self.dim, self.heads, WINDOW, SWIN_SHIFTS[self.name])
            tokens, arguments = tokens.flatten(1, 2), ((self.height, self.width),)
        module.to(self.device).train(self.direction == TRAINING)

        def function() -> Sequence[Tensor]:
            return (module(tokens, *arguments),)

        return Computation(function, [tokens, *module.parameters()], [torch.randn_like(tokens)])

    def warm_up(self) -> 'ModuleWorkload':
        """A small map."""
        return dataclasses.replace(self, height=2 * WINDOW, width=2 * WINDOW)
