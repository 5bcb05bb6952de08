"""The parts that NAT, DiNAT and DiNAT_s are made of; feature maps are channels-last ``(B, H, W, C)``."""

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from natten_ops import NeighborhoodAttention2D


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
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class PatchStem(nn.Module):
    """Stem of DiNAT_s: one 4x4 convolution of stride 4, then LayerNorm.

    Images ``(B, C, H, W)`` to ``(B, ceil(H / 4), ceil(W / 4), embed_dim)``; sides that are no multiple of 4
    are padded with zeros at the right and bottom.

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
        images = F.pad(images, (0, -width % 4, 0, -height % 4))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


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
    """Downsampling of DiNAT_s, as in Swin Transformer: the pixels of 2x2 patches side by side, projected.

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
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        # Rows before columns: the order the published weights were trained with.
        phases = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(phases, -1)))


class Mlp(nn.Module):
    """Two linear layers with GELU between, over the last dimension.

    Args:
        dim: channels of input and output.
        hidden_dim: channels between.
        drop: dropout probability after either layer.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the two layers."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    """Transformer block: neighborhood attention and MLP, each normalised before and added to its input.

    Args:
        dim: channels.
        num_heads: attention heads.
        kernel_size: keys in an attention window on each axis.
        dilation: distance of neighbouring keys.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        qkv_bias: give the query-key-value projection a bias.
        qk_scale: factor of the dot products, None for ``head_dim ** -0.5``.
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
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()
        if layer_scale is None:
            self.gamma1 = self.gamma2 = 1.0
        else:
            self.gamma1 = nn.Parameter(torch.full((dim,), float(layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((dim,), float(layer_scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply both branches; keeps the shape."""
        x = x + self.drop_path(self._scaled(self.gamma1, self.attn(self.norm1(x))))
        return x + self.drop_path(self._scaled(self.gamma2, self.mlp(self.norm2(x))))

    @staticmethod
    def _scaled(gamma: Tensor | float, x: Tensor) -> Tensor:
        return gamma * x if isinstance(gamma, Tensor) else x


class Level(nn.Module):
    """Blocks of one resolution, and the downsampling behind them.

    Args:
        blocks: the blocks.
        downsample: the downsampling, None for the last level.
        with_cp: recompute the blocks' activations in the backward instead of keeping them.
    """

    def __init__(self, blocks: list[Block], downsample: nn.Module | None, with_cp: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks; the caller downsamples, for the feature map before it is an output."""
        for block in self.blocks:
            recompute = self.with_cp and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x
