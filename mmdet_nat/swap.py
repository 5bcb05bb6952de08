"""Swaps the backbone of any mmdet config for one of ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmdet
from mmdet.registry import MODELS
from mmengine.config import Config

from mmnat.swap import ConfigEditor, Framework, SwapRefused, swap_and_log, swapped_fields
from mmnat.swap.necks import replace_by_fpn
from mmnat.swap.probe import type_name


def swap_backbone(
    cfg: Config,
    backbone: str | Mapping[str, Any],
    pretrained: str | None = 'published',
    optimizer: str = 'keep',
) -> Config:
    """Swap the backbone of an mmdet config for one of ours, and log what changed and why.

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
    return swap_and_log(cfg, MMDET, backbone, pretrained, optimizer)


def swapped(
    base: Mapping[str, Any],
    backbone: str | Mapping[str, Any],
    pretrained: str | None = 'published',
    optimizer: str = 'keep',
) -> dict[str, Any]:
    """Swap the backbone inside a config that inherits an mmdet config.

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
    return swapped_fields(base, MMDET, backbone, pretrained, optimizer)


def _prepare(editor: ConfigEditor, path: str) -> None:
    """Change what a swap cannot: parts made for one backbone only, and files in mmdet's repository."""
    model = editor.get(path)
    if 'shared_head' in (model.get('roi_head') or {}):
        raise SwapRefused(
            f'{path}.roi_head.shared_head {type_name(model["roi_head"]["shared_head"])} is the last stage'
            ' of a ResNet (a C4 detector), which ours do not have; swap the FPN variant of this detector'
        )
    if isinstance(model.get('neck'), dict) and type_name(model['neck']).split('.')[-1] == 'RFP':
        why = "RFP feeds its output back into DetectoRS' own ResNet, which ours do not take"
        replace_by_fpn(editor, f'{path}.neck', why)
        model['backbone'].pop('output_img', None)  # the image itself, an output for RFP only
    if model['backbone']['type'].split('.')[-1] == 'HourglassNet':
        _deconvolve(editor, path)
    if isinstance(model.get('teacher_config'), (str, Path)):
        _embed_teacher(editor, f'{path}.teacher_config')


def _deconvolve(editor: ConfigEditor, path: str) -> None:
    """Replace the hourglass's map of stride 4 by our last level and the neck of CenterNet."""
    hourglass = editor.get(f'{path}.backbone')
    channels = hourglass.get('feat_channel', 256)
    neck = dict(
        type='CTResNetNeck',
        in_channels=channels,
        num_deconv_filters=(256, 256, channels),
        num_deconv_kernels=(4, 4, 4),
        use_dcn=False,
    )
    if hourglass.get('_scope_'):
        neck['_scope_'] = hourglass['_scope_']
    why = 'deconvolutions give the map of stride 4 that the hourglass gave'
    editor.set(f'{path}.neck', neck, why)
    if 'num_feat_levels' in editor.get(f'{path}.bbox_head'):
        editor.set(f'{path}.bbox_head.num_feat_levels', 1, 'one map instead of one for each stack')


def _embed_teacher(editor: ConfigEditor, path: str) -> None:
    """Replace the path of the teacher's config, which is relative to mmdet's repository, by the config."""
    file = Path(editor.get(path))
    installed = Path(mmdet.__path__[0]) / '.mim' / file
    if not file.is_file() and not installed.is_file():
        raise SwapRefused(f'{path} {file} does not exist; give the path of an existing config')
    teacher = Config.fromfile(file if file.is_file() else installed)
    why = 'so that the config is self-contained; the teacher stays as it is'
    editor.set(path, dict(model=teacher.model.to_dict()), why)


MMDET = Framework(
    name='mmdet',
    package='mmdet_nat',
    registry=MODELS,
    task='detection',
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    heads=(
        'rpn_head',
        'bbox_head',
        'mask_head',
        'panoptic_head',
        'semantic_head',
        'track_head',
        'query_head',
        'head',
    ),
    single_map_uses_coarsest=False,
    refusals={
        'ImageClassifier': 'is a classifier of mmpretrain, not a detector',
        'TridentResNet': 'has branches that share weights, which its heads expect; use another detector',
    },
    prepare=_prepare,
)
