"""Swaps the backbone of any mmseg config for one of ours."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmseg.registry import MODELS

from nat_backbones.swap import Framework, Report, changed_fields, swap


def _prepare(model: dict[str, Any], where: str, report: Report) -> None:
    heads = model.get('decode_head')
    if not isinstance(heads, (list, tuple)) or not str(heads[-1].get('type')).endswith('OCRHead'):
        return
    first, last = heads[0], heads[-1]
    if isinstance(first.get('in_index'), int) and first['in_index'] != last.get('in_index'):
        # Dilated networks give both at one stride, ours do not.
        why = 'OCRHead weighs its map by what the first head predicts, on a map of the same size'
        for key in ('in_index', 'in_channels'):
            report.add(f'{where}.decode_head[0].{key}', first[key], last[key], why)
            first[key] = last[key]


MMSEG = Framework(
    name='mmseg',
    package='mmseg_nat',
    registry=MODELS,
    task='segmentation',
    optimizer=dict(lr=6e-5, weight_decay=0.01),
    heads=('decode_head', 'auxiliary_head'),
    deepest=True,
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


def swap_backbone(
    cfg: Config,
    backbone: str | Mapping[str, Any],
    pretrained: str | None = 'published',
    optimizer: str = 'keep',
) -> Config:
    """Swap the backbone of a segmentor's config for one of ours, and log what changed and why.

    Args:
        cfg: the config, left as it is.
        backbone: a variant such as 'nat_tiny', or the backbone's config, ``dict(type='DiNAT', ...)``.
        pretrained: 'published' for the variant's ImageNet weights, a file or URL, or None to train from
            scratch. Default: 'published'.
        optimizer: 'keep' to keep the config's own, 'nat' for the published AdamW. Default: 'keep'.

    Returns:
        The new config.

    Raises:
        SwapRefused: where the result would make no sense; the message says why.
    """
    swapped_cfg, report = swap(cfg, MMSEG, backbone, pretrained, optimizer)
    print_log(f'backbone swapped:\n{report}', logger='current')
    return swapped_cfg


def swapped(base: Mapping[str, Any], backbone: str | Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """What a config adds to the one it inherits, ``globals().update(swapped(_base_, 'nat_tiny'))``.

    Args:
        base: mmengine's ``_base_``.
        backbone: see :func:`swap_backbone`.
        options: see there.
    """
    return changed_fields(base, swap(base, MMSEG, backbone, **options)[0])
