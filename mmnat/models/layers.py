"""The layers of NAT, DiNAT and DiNAT_s. Feature maps are channels-last ``(B, H, W, C)``."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from natten_ops import NeighborhoodAttention2D


def _channels_last(images: Tensor) -> Tensor:
    """Make the output of the next convolution channels-last: the norm and the backward need no copy."""
    # torch.vmap does not support contiguous(memory_format=torch.channels_last).
    return images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class ConvStem(nn.Module):
    """Stem of NAT and DiNAT: two overlapping 3x3 convolutions of stride 2, then LayerNorm.

    Images ``(B, C, H, W)`` to ``(B, ceil(H / 4), ceil(W / 4), embed_dim)``.

    Args:
        in_channels: channels of the images.
        embed_dim: channels of the feature map.
    """

    def __init__(self, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, embed_dim // 2, kernel_size=3, stride=2, padding=1),
            nn.Conv2d(embed_dim // 2, embed_dim, kernel_size=3, stride=2, padding=1),
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed the images."""
        return self.norm(self.proj(_channels_last(images)).permute(0, 2, 3, 1))


class PatchStem(nn.Module):
    """Stem of DiNAT_s: one 4x4 convolution of stride 4, then LayerNorm.

    Images ``(B, C, H, W)`` to ``(B, ceil(H / 4), ceil(W / 4), embed_dim)``. If a side is not a multiple
    of 4, zeros are padded at the right and bottom.

    Args:
        in_channels: channels of the images.
        embed_dim: channels of the feature map.
    """

    def __init__(self, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed the images."""
        height, width = images.shape[-2:]
        # Padding copies even if it adds nothing.
        if height % 4 or width % 4:
            images = F.pad(images, (0, -width % 4, 0, -height % 4))
        return self.norm(self.proj(_channels_last(images)).permute(0, 2, 3, 1))


class ConvDownsample(nn.Module):
    """Downsampling of NAT and DiNAT: 3x3 convolution of stride 2, then LayerNorm.

    ``(B, H, W, dim)`` to ``(B, ceil(H / 2), ceil(W / 2), 2 * dim)``.

    Args:
        dim: channels of the input.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution."""
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Downsampling of DiNAT_s, as in Swin Transformer: a projection of the pixels of 2x2 patches.

    ``(B, H, W, dim)`` to ``(B, ceil(H / 2), ceil(W / 2), 2 * dim)``; odd sides are padded with zeros.

    Args:
        dim: channels of the input.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution."""
        height, width = x.shape[1:3]
        # Padding copies even if it adds nothing.
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        # Rows before columns: the published weights were trained with this order.
        phases = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(phases, -1)))


class Mlp(nn.Module):
    """LayerNorm, then two linear layers with GELU between them, over the last dimension.

    The norm is the caller's, whose checkpoints it belongs to under another name.

    Args:
        dim: channels of input and output.
        hidden_dim: channels between the layers.
        drop: dropout probability after each layer.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Apply the norm and the two layers."""
        # The backward needs inputs and outputs of norm and GELU, of which those of GELU are the largest
        # tensors of a block. Both are cheap, so only their inputs are kept, and their outputs are computed
        # again. Checkpointing stops before it repeats fc1 and fc2.
        x = self._recompute(lambda x: self.fc1(norm(x)), x)
        return self.drop(self._recompute(lambda x: self.fc2(self.drop(self.act(x))), x))

    def _recompute(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a function, whose results on the way are computed again in the backward."""
        if not self.training or not _can_recompute(x):
            return function(x)
        random = self.drop.p > 0
        return checkpoint(function, x, use_reentrant=False, preserve_rng_state=random)


def _can_recompute(x: Tensor) -> bool:
    """Whether a gradient is needed, and checkpoints work for it."""
    # The compiler decides itself what to compute again, and torch.func does not support checkpoints.
    return (
        x.requires_grad
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


class StochasticDepth(nn.Module):
    """Adds a branch to its input; in training only for randomly drawn samples of the batch.

    For those samples the branch is scaled, so that its expected contribution stays the same. mmcv's
    DropPath does the same in two passes over the branch before the addition. Here there is one pass in
    all.

    Args:
        drop_prob: probability of skipping the branch.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add ``branch``, ``(B, H, W, C)``, to ``x``."""
        if not self.training or self.drop_prob == 0:
            return x + branch
        shape = (len(x), 1, 1, 1)
        if torch.compiler.is_compiling():
            # The compiler makes a number an input if it only meets tensors. Otherwise the number is a
            # constant, and blocks with different ones do not share code.
            exact = torch.promote_types(x.dtype, torch.float32)
            kept = torch.ones(shape, dtype=exact, device=x.device) - self.drop_prob
            factor = (torch.bernoulli(kept) / kept).to(x.dtype)
        else:
            probability = 1 - self.drop_prob
            factor = x.new_empty(shape).bernoulli_(probability).div_(probability)
        return torch.addcmul(x, branch, factor)

    def extra_repr(self) -> str:
        """The setting."""
        return f'drop_prob={self.drop_prob:g}'


class Block(nn.Module):
    """Transformer block: neighborhood attention and MLP, each with a norm before it and added to its input.

    Args:
        dim: channels.
        num_heads: attention heads.
        kernel_size: keys in an attention window on each axis.
        dilation: distance between neighboring keys.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        qkv_bias: give the query-key-value projection a bias.
        qk_scale: factor of the dot products; None for ``head_dim ** -0.5``.
        drop_rate: dropout probability of projections and MLP.
        attn_drop_rate: probability of dropping an attention weight.
        drop_path_rate: probability of skipping a branch (stochastic depth).
        layer_scale: initial value of the branches' learned factors ``gamma1`` and ``gamma2``; None for
            no factors.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int,
        dilation: int,
        mlp_ratio: float,
        qkv_bias: bool,
        qk_scale: float | None,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        layer_scale: float | None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = NeighborhoodAttention2D(
            dim,
            num_heads,
            kernel_size,
            dilation,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop_rate,
            proj_drop=drop_rate,
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop_rate)
        self.drop_path = StochasticDepth(drop_path_rate)
        self.gamma1: nn.Parameter | float
        self.gamma2: nn.Parameter | float
        if layer_scale is None:
            self.gamma1 = self.gamma2 = 1.0
        else:
            self.gamma1 = nn.Parameter(torch.full((dim,), float(layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((dim,), float(layer_scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply both branches. The shape stays the same."""
        x = self.drop_path(x, self._scaled(self.gamma1, self.attn(self.norm1(x))))
        return self.drop_path(x, self._scaled(self.gamma2, self.mlp(x, self.norm2)))

    @staticmethod
    def _scaled(gamma: Tensor | float, x: Tensor) -> Tensor:
        return gamma * x if isinstance(gamma, Tensor) else x


class Level(nn.Module):
    """Blocks of one resolution, and the downsampling after them.

    Args:
        blocks: the blocks.
        downsample: the downsampling; None for the last level.
        with_cp: recompute the blocks' activations in the backward instead of keeping them.
    """

    def __init__(self, blocks: list[Block], downsample: nn.Module | None, with_cp: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks. The caller downsamples, because the feature map before that is an output."""
        for block in self.blocks:
            recompute = self.with_cp and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x
