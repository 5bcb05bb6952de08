"""The shapes of neighborhood attention that are measured."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .workload import FORWARD, TRAINING, Computation

# Backward computes five matrix products where forward computes two.
WORK = {FORWARD: 1.0, TRAINING: 3.5}
# Tensors of the size of query that are read or written: query, key, value, output; then output, its
# gradient and the first three again, and their gradients.
TRAFFIC = {FORWARD: 4, TRAINING: 12}
BIAS_TRAFFIC = {FORWARD: 1, TRAINING: 3}


@dataclass(frozen=True)
class Case:
    """One attention over feature maps.

    Attributes:
        height: Of the feature map, in tokens.
        width: Of the feature map, in tokens.
        heads: Attention heads.
        head_dim: Channels of a head.
        batch: Feature maps.
        kernel_size: Keys in a window, on both axes.
        dilation: Distance of neighboring keys.
        dtype: Name in torch.
        device: Name.
    """

    height: int
    width: int
    heads: int
    head_dim: int
    batch: int
    kernel_size: int
    dilation: int
    dtype: str
    device: str

    @property
    def query_shape(self) -> tuple[int, ...]:
        """Shape of query, and of key, value and output."""
        return self.batch, self.height, self.width, self.heads, self.head_dim

    @property
    def bias_shape(self) -> tuple[int, int, int]:
        """Shape of the relative position bias."""
        return self.heads, 2 * self.kernel_size - 1, 2 * self.kernel_size - 1

    @property
    def options(self) -> dict[str, object]:
        """Dtype and device, for torch's constructors."""
        return dict(dtype=getattr(torch, self.dtype), device=self.device)

    def gflop(self, direction: str) -> float:
        """Necessary work; a multiply-add counts as two."""
        tokens = self.batch * self.height * self.width
        return WORK[direction] * 4e-9 * tokens * self.heads * self.head_dim * self.kernel_size**2

    def necessary_bytes(self, direction: str) -> int:
        """What has to be read and written at least."""
        query, bias = (torch.Size(shape).numel() for shape in (self.query_shape, self.bias_shape))
        width = getattr(torch, self.dtype).itemsize
        return width * (TRAFFIC[direction] * query + BIAS_TRAFFIC[direction] * bias)


def attention_computation(
    case: Case, attention: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
) -> Computation:
    """Attention over views of one projection, with gradients for query, key, value and bias."""
    batch, height, width, heads, head_dim = case.query_shape
    projection = torch.randn(batch, height, width, 3, heads, head_dim, **case.options)
    leaves = [view.detach() for view in projection.unbind(-3)]
    leaves.append(torch.randn(case.bias_shape, **case.options))
    gradient = torch.randn(case.query_shape, **case.options)
    return Computation(lambda: (attention(*leaves),), leaves, (gradient,))
