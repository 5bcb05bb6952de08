"""Window attention as in Swin Transformer (arXiv 2103.14030), on the tokens of a neighborhood attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .cases import Case
from .workload import Computation


def window_computation(case: Case, fused: bool) -> Computation:
    """Attention within windows of ``kernel_size x kernel_size`` tokens, with relative position bias.

    It is measured from before the windows are cut to after they are put together, as Swin does it: the
    channels are padded to whole windows and partitioned, the projection gives query, key and value by
    window, and the output is put together and cropped. The projection itself is left out on both sides:
    query, key and value are inputs that lie as a projection of the windows makes them, and the partitioned
    channels are a second output.

    Args:
        case: Tokens, heads and window; the dilation has to be 1.
        fused: Compute with torch's scaled_dot_product_attention, else with matmul, softmax, matmul.
    """
    batch, height, width, heads, head_dim = case.query_shape
    size = case.kernel_size
    padded = height + -height % size, width + -width % size
    windows = batch * padded[0] * padded[1] // size**2
    channels = heads * head_dim

    tokens = torch.randn(batch, height, width, channels, **case.options)
    projection = torch.randn(windows, size**2, 3, heads, head_dim, **case.options)
    leaves = [view.detach() for view in projection.permute(2, 0, 3, 1, 4)]
    rpb = torch.randn(case.bias_shape, **case.options)
    index = relative_positions(size, tokens.device)
    attend = _attend_fused if fused else _attend_unfused

    def function() -> tuple[Tensor, Tensor]:
        partitioned = partition(tokens, size)
        bias = rpb.flatten(1)[:, index.flatten()].unflatten(1, index.shape)
        output = attend(*leaves, bias).transpose(1, 2).reshape(windows, size**2, channels)
        return put_together(output, batch, padded, size)[:, :height, :width].contiguous(), partitioned

    gradients = torch.randn_like(tokens), torch.randn(windows, size**2, channels, **case.options)
    return Computation(function, [tokens, *leaves, rpb], gradients)


def relative_positions(size: int, device: torch.device) -> Tensor:
    """Entry in a flat bias ``(2 * size - 1) ** 2`` of every pair of tokens of a window, query first."""
    row, column = torch.meshgrid(*[torch.arange(size, device=device)] * 2, indexing='ij')
    rows, columns = (axis.flatten()[None, :] - axis.flatten()[:, None] + size - 1 for axis in (row, column))
    return rows * (2 * size - 1) + columns


def partition(tokens: Tensor, size: int) -> Tensor:
    """``(B, H, W, C)`` to ``(windows, size * size, C)``, padded at the right and bottom."""
    tokens = F.pad(tokens, (0, 0, 0, -tokens.shape[2] % size, 0, -tokens.shape[1] % size))
    tokens = tokens.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    return tokens.transpose(2, 3).reshape(-1, size**2, tokens.shape[-1])


def put_together(windows: Tensor, batch: int, padded: tuple[int, int], size: int) -> Tensor:
    """The inverse of :func:`partition` but for the padding."""
    height, width = padded
    tokens = windows.view(batch, height // size, width // size, size, size, -1).transpose(2, 3)
    return tokens.reshape(batch, height, width, -1)


def _attend_fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])


def _attend_unfused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    logits = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
    return (logits + bias).softmax(-1) @ value
