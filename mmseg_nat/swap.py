"""Swaps the backbone of any mmseg config for one of ours."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmseg.registry import MODELS

from mmnat.swap import ConfigEditor, Framework, swap_and_log, swapped_fields


def swap_backbone(
    cfg: Config,
    backbone: str | Mapping[str, Any],
    pretrained: str | None = 'published',
    optimizer: str = 'keep',
) -> Config:
    """Swap the backbone of an mmseg config for one of ours, and log what changed and why.

    Args:
        cfg: The config, which is not changed.
        backbone: A variant such as 'nat_tiny', or the backbone's config, ``dict(type='DiNAT', ...)``.
        pretrained: 'published' for the variant's ImageNet weights, a file or URL, or None to train from
            scratch. Default: 'published'.
        optimizer: 'keep' for the config's own optimizer, 'nat' for the published AdamW. Default: 'keep'.

    Returns:
        The new config.

    Raises:
        SwapRefused: If the result would make no sense; the message says why.
    """
    return swap_and_log(cfg, MMSEG, backbone, pretrained, optimizer)


def swapped(
    base: Mapping[str, Any],
    backbone: str | Mapping[str, Any],
    pretrained: str | None = 'published',
    optimizer: str = 'keep',
) -> dict[str, Any]:
    """Swap the backbone inside a config that inherits an mmseg config.

    In the config: ``globals().update(swapped(_base_, 'nat_tiny'))``.

    Args:
        base: The inherited config, mmengine's ``_base_``.
        backbone: A variant such as 'nat_tiny', or the backbone's config, ``dict(type='DiNAT', ...)``.
        pretrained: 'published' for the variant's ImageNet weights, a file or URL, or None to train from
            scratch. Default: 'published'.
        optimizer: 'keep' for the config's own optimizer, 'nat' for the published AdamW. Default: 'keep'.

    Returns:
        The top-level fields that the swap changed, which replace the inherited ones.

    Raises:
        SwapRefused: If the result would make no sense; the message says why.
    """
    return swapped_fields(base, MMSEG, backbone, pretrained, optimizer)


def _prepare(editor: ConfigEditor, path: str) -> None:
    """Have both heads of OCRNet read the same map. Dilated networks do not need this."""
    heads = editor.get(f'{path}.decode_head')
    if not isinstance(heads, (list, tuple)) or not str(heads[-1].get('type')).endswith('OCRHead'):
        return
    first, last = heads[0], heads[-1]
    if isinstance(first.get('in_index'), int) and first['in_index'] != last.get('in_index'):
        # Dilated networks give the maps of both heads at one stride, our backbones do not.
        why = 'OCRHead weighs its map by what the first head predicts, on a map of the same size'
        for key in ('in_index', 'in_channels'):
            editor.set(f'{path}.decode_head[0].{key}', last[key], why)


MMSEG = Framework(
    name='mmseg',
    package='mmseg_nat',
    registry=MODELS,
    task='segmentation',
    optimizer=dict(lr=6e-5, weight_decay=0.01),
    heads=('decode_head', 'auxiliary_head'),
    single_map_uses_coarsest=True,
    decoders=frozenset(
        ('UNet', 'BiSeNetV1', 'BiSeNetV2', 'CGNet', 'ERFNet', 'FastSCNN', 'STDCContextPathNet')
    ),
    refusals={
        'PIDHead': 'reads the three branches of PIDNet, and its boundary branch has a loss of its own',
        'DDRHead': 'reads the two branches of DDRNet',
        'DPTHead': 'reads the class token of a plain transformer, which ours do not have',
        'LRASPPHead': 'averages windows of 49 x 49 of a map of stride 8; ours as deep has stride 32',
        'MLANeck': 'adds up maps of one stride, which a plain transformer gives; use UPerHead',
        'VPD': 'is a diffusion model that reads text; its head reads what only it gives',
    },
    prepare=_prepare,
)
