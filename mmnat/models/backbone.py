"""The base of NAT, DiNAT and DiNAT_s: levels of neighborhood attention that return a feature pyramid."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

from mmengine.model import BaseModule
from torch import Tensor, nn

from .arguments import refuse_unknown
from .layers import Block, Level
from .pretrained import load_pretrained, require_pretrained


class NeighborhoodBackbone(BaseModule):
    """Base class of the backbones; see :class:`mmnat.models.NAT` for the arguments."""

    #: Named variants: name to ``embed_dim``, ``depths``, ``num_heads`` and ``mlp_ratio``.
    arch_zoo: ClassVar[dict[str, dict[str, Any]]]
    #: Name of the levels in the state dict.
    levels_name: ClassVar[str]
    #: ``stem(in_channels, embed_dim)`` and ``downsample(dim)``.
    stem: ClassVar[type[nn.Module]]
    downsample: ClassVar[type[nn.Module]]
    init_cfg: dict | list

    def __init__(
        self,
        arch: str | None = None,
        embed_dim: int | None = None,
        depths: Sequence[int] | None = None,
        num_heads: Sequence[int] | None = None,
        mlp_ratio: float | None = None,
        kernel_size: int = 7,
        dilations: Sequence[Sequence[int]] | None = None,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        layer_scale: float | None = None,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
        **unknown: Any,
    ) -> None:
        valid = [*inspect.signature(NeighborhoodBackbone).parameters][:-1]
        refuse_unknown(type(self).__name__, unknown, valid)
        super().__init__(
            init_cfg
            or [
                dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
                dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
            ]
        )
        explicit = dict(embed_dim=embed_dim, depths=depths, num_heads=num_heads, mlp_ratio=mlp_ratio)
        settings = self._settings(arch, explicit)
        embed_dim, depths, num_heads, mlp_ratio = (settings[name] for name in explicit)
        dilations = self._dilations(depths, num_heads, dilations)
        self.out_indices = self._checked_out_indices(out_indices, len(depths))
        if not -1 <= frozen_stages <= len(depths):
            raise ValueError(
                f'frozen_stages must be -1 (nothing), 0 (the stem) or the number of frozen levels,'
                f' at most {len(depths)}, got {frozen_stages}'
            )
        if layer_scale is not None and layer_scale <= 0:
            raise ValueError(
                f'layer_scale must be positive, got {layer_scale}: it would switch the blocks off; for no'
                ' layer scale give None'
            )
        self.frozen_stages = frozen_stages
        #: Channels of every level's feature map.
        self.num_features = [embed_dim * 2**i for i in range(len(depths))]

        self.patch_embed = self.stem(in_channels, embed_dim)
        self.pos_drop = nn.Dropout(drop_rate)
        steps = max(sum(depths) - 1, 1)
        drop_path_rates = iter(drop_path_rate * i / steps for i in range(sum(depths)))
        levels = nn.ModuleList()
        for i, dim in enumerate(self.num_features):
            blocks = [
                Block(
                    dim,
                    num_heads[i],
                    kernel_size,
                    dilation,
                    mlp_ratio,
                    qkv_bias,
                    qk_scale,
                    drop_rate,
                    attn_drop_rate,
                    next(drop_path_rates),
                    layer_scale,
                )
                for dilation in dilations[i]
            ]
            last = i == len(depths) - 1
            levels.append(Level(blocks, None if last else self.downsample(dim), with_cp))
        self.add_module(self.levels_name, levels)
        for i in self.out_indices:
            self.add_module(f'norm{i}', nn.LayerNorm(self.num_features[i]))
        self._unused().requires_grad_(False)
        self._freeze()

    def _settings(self, arch: str | None, explicit: dict[str, Any]) -> dict[str, Any]:
        """The settings of the variant; explicit settings override them."""
        if arch is not None and arch not in self.arch_zoo:
            near = difflib.get_close_matches(str(arch).lower(), self.arch_zoo, n=1, cutoff=0)
            raise ValueError(
                f'arch of {type(self).__name__} must be one of {", ".join(self.arch_zoo)}, got {arch!r};'
                f' did you mean {near[0]!r}?'
            )
        given = {name: value for name, value in explicit.items() if value is not None}
        settings = {**(self.arch_zoo[arch] if arch else {}), **given}
        missing = [name for name in explicit if name not in settings]
        if missing:
            raise ValueError(
                f'{type(self).__name__} needs arch, one of {", ".join(self.arch_zoo)}, or explicit'
                f' {", ".join(missing)}'
            )
        return settings

    def _dilations(
        self,
        depths: Sequence[int],
        num_heads: Sequence[int],
        dilations: Sequence[Sequence[int]] | None,
    ) -> Sequence[Sequence[int]]:
        """A dilation for every block; 1 by default."""
        if len(num_heads) != len(depths):
            raise ValueError(
                f'num_heads must have one entry per level like depths {list(depths)}, got {list(num_heads)}'
            )
        if dilations is None:
            return [[1] * depth for depth in depths]
        if [len(level) if isinstance(level, Sequence) else None for level in dilations] != list(depths):
            raise ValueError(
                f'dilations must be one list per level with one entry per block, depths are'
                f' {list(depths)}, got {dilations}'
            )
        return dilations

    @staticmethod
    def _checked_out_indices(out_indices: Sequence[int], num_levels: int) -> tuple[int, ...]:
        out_indices = tuple(out_indices) if isinstance(out_indices, Sequence) else (out_indices,)
        if not out_indices or any(not 0 <= i < num_levels for i in out_indices):
            raise ValueError(f'out_indices must name levels from 0 to {num_levels - 1}, got {out_indices}')
        return tuple(sorted(set(out_indices)))

    @property
    def _levels(self) -> Sequence[Level]:
        return getattr(self, self.levels_name)

    def _unused(self) -> nn.ModuleList:
        """The modules after the last level in ``out_indices``: only the state dict needs them."""
        last = self.out_indices[-1]
        downsample = self._levels[last].downsample
        return nn.ModuleList([*([] if downsample is None else [downsample]), *self._levels[last + 1 :]])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of the levels in ``out_indices``.

        Args:
            images: ``(B, in_channels, H, W)`` of any size.

        Returns:
            A feature map ``(B, num_features[i], H / stride, W / stride)`` for each level, with strides 4,
            8, 16 and 32 and sizes rounded up.
        """
        x = self.pos_drop(self.patch_embed(images))
        outputs = []
        last = self.out_indices[-1]
        for i, level in enumerate(self._levels[: last + 1]):
            x = level(x)
            if i in self.out_indices:
                normalized = getattr(self, f'norm{i}')(x)
                # Contiguous, although necks are faster without this copy: mmcv's RoIAlign and deformable
                # convolution silently compute nonsense from channels-last feature maps.
                outputs.append(normalized.permute(0, 3, 1, 2).contiguous())
            if i < last and level.downsample is not None:
                x = level.downsample(x)
        return tuple(outputs)

    def init_weights(self) -> None:
        """Initialize by ``init_cfg``, once. ``Pretrained`` loads published weights."""
        entries = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg]
        pretrained = [entry for entry in entries if entry['type'] == 'Pretrained']
        if self.is_init or not pretrained:
            super().init_weights()
            return
        for entry in pretrained:
            require_pretrained(entry['checkpoint'])
        whole, self.init_cfg = self.init_cfg, [e for e in entries if e['type'] != 'Pretrained']
        super().init_weights()
        self.init_cfg = whole
        for entry in pretrained:
            load_pretrained(self, entry['checkpoint'], entry.get('prefix', ''))

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        modules = [self.patch_embed, self.pos_drop, *self._levels[: self.frozen_stages]]
        norms = [f'norm{i}' for i in self.out_indices if i < self.frozen_stages]
        return modules + [getattr(self, norm) for norm in norms]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'NeighborhoodBackbone':
        """Switch to training mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self
