"""Swaps the backbone of any mmseg config for one of ours."""

from typing import Any

from mmseg.registry import MODELS

from mmnat.swap import Framework, Report, calls_for


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

swap_backbone, swapped = calls_for(MMSEG)
