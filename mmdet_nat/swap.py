"""Swaps the backbone of any mmdet config for one of ours."""

from pathlib import Path
from typing import Any

import mmdet
from mmdet.registry import MODELS
from mmengine.config import Config

from mmnat.swap import Framework, Report, SwapRefused, calls_for
from mmnat.swap.necks import as_fpn
from mmnat.swap.probe import type_name


def _prepare(model: dict[str, Any], where: str, report: Report) -> None:
    if 'shared_head' in (model.get('roi_head') or {}):
        raise SwapRefused(
            f'{where}.roi_head.shared_head {type_name(model["roi_head"]["shared_head"])} is the last stage'
            ' of a ResNet (a C4 detector), which ours do not have; swap the FPN variant of this detector'
        )
    if isinstance(model.get('neck'), dict) and type_name(model['neck']).split('.')[-1] == 'RFP':
        why = "RFP feeds its output back into DetectoRS' own ResNet, which ours do not take"
        model['neck'] = as_fpn(model['neck'], why, f'{where}.neck', report)
        model['backbone'].pop('output_img', None)
    if model['backbone']['type'].split('.')[-1] == 'HourglassNet':
        _deconvolve(model, where, report)
    if isinstance(model.get('teacher_config'), (str, Path)):
        _embed_teacher(model, where, report)


def _deconvolve(model: dict[str, Any], where: str, report: Report) -> None:
    """One map of stride 4 in the place of an hourglass's: our last level through CenterNet's neck."""
    channels = model['backbone'].get('feat_channel', 256)
    why = 'deconvolutions give the map of stride 4 that the hourglass gave'
    hourglass = model['backbone']
    stacks = hourglass.get('num_stacks', 2)
    neck = dict(
        type='CTResNetNeck',
        in_channels=channels,
        num_deconv_filters=(256, 256, channels),
        num_deconv_kernels=(4, 4, 4),
        use_dcn=False,
    )
    if hourglass.get('_scope_'):
        neck['_scope_'] = hourglass['_scope_']
    report.add(f'{where}.neck', model.get('neck'), neck, why)
    model['neck'] = neck
    head = model['bbox_head']
    if 'num_feat_levels' in head:
        report.add(f'{where}.bbox_head.num_feat_levels', stacks, 1, 'one map instead of one for each stack')
        head['num_feat_levels'] = 1


def _embed_teacher(model: dict[str, Any], where: str, report: Report) -> None:
    """The teacher's config is named by its path in mmdet's repository; the swapped one can be anywhere."""
    path = Path(model['teacher_config'])
    installed = Path(mmdet.__path__[0]) / '.mim' / path
    if not path.is_file() and not installed.is_file():
        raise SwapRefused(
            f'{where}.teacher_config {path} does not exist; give the path of an existing config'
        )
    teacher = Config.fromfile(path if path.is_file() else installed)
    embedded = dict(model=teacher.model.to_dict())
    why = 'so that the config is self-contained; the teacher stays as it is'
    report.add(f'{where}.teacher_config', str(path), embedded, why)
    model['teacher_config'] = embedded


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
    deepest=False,
    refusals={
        'ImageClassifier': 'is a classifier of mmpretrain, not a detector',
        'TridentResNet': 'has branches that share weights, which its heads expect; use another detector',
    },
    prepare=_prepare,
)

swap_backbone, swapped = calls_for(MMDET)
