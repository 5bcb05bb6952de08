"""The published variants as backbones of detectors and segmentors."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmnat.models import BACKBONES, NAT, DiNAT, DiNAT_s
from mmnat.models.backbone import NeighborhoodBackbone
from mmnat.models.published import CLASSIFIERS

from .refusal import SwapRefused

#: Names that a swap accepts: the classifiers trained on 224 x 224 pixels.
NAMES = tuple(name for name, classifier in CLASSIFIERS.items() if classifier.resolution == 224)

#: Stochastic depth of the published detectors (of Mask R-CNN, else of Cascade Mask R-CNN) and segmentors.
# fmt: off
_DROP_PATH = {
    'detection': dict(
        nat_mini=0.2, nat_tiny=0.2, nat_small=0.35, nat_base=0.5,
        dinat_mini=0.2, dinat_tiny=0.2, dinat_small=0.35, dinat_base=0.6, dinat_large=0.6,
        dinat_s_tiny=0.2, dinat_s_small=0.35, dinat_s_base=0.6, dinat_s_large=0.6,
    ),
    'segmentation': dict(
        nat_mini=0.2, nat_tiny=0.3, nat_small=0.5, nat_base=0.5,
        dinat_mini=0.2, dinat_tiny=0.3, dinat_small=0.5, dinat_base=0.5, dinat_large=0.3,
        dinat_s_tiny=0.3, dinat_s_small=0.3, dinat_s_base=0.3, dinat_s_large=0.3,
    ),
}
# fmt: on

#: Dilations of the published models by task. Those of a level are repeated over its blocks. Kernel size 7
#: times the largest dilation spans the level's map of an image of 800 pixels, for segmentation 512.
_DILATIONS = {
    ('detection', DiNAT): ([1, 28, 1], [1, 7, 1, 14], [1, 3, 1, 5, 1, 7], [1, 3, 1, 3, 1]),
    ('segmentation', DiNAT): ([1, 16, 1], [1, 4, 1, 8], [1, 2, 1, 3, 1, 4], [1, 2, 1, 2, 1]),
    ('detection', DiNAT_s): ([1, 28], [1, 14], [1, 3, 1, 5, 1, 7], [1, 3]),
    ('segmentation', DiNAT_s): ([1, 16], [1, 8], [1, 2, 1, 3, 1, 4], [1, 2]),
}
#: The Large segmentors were trained on 640 pixels.
_THIRD_LEVEL_640 = [1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5]
_DILATIONS_640 = {
    DiNAT: ([1, 20, 1], [1, 5, 1, 10], _THIRD_LEVEL_640, [1, 2, 1, 2, 1]),
    DiNAT_s: ([1, 20], [1, 10], _THIRD_LEVEL_640, [1, 2]),
}

#: The value of ``pretrained`` that stands for the ImageNet weights published with a variant.
PUBLISHED = 'published'


def backbone_config(
    backbone: str | Mapping[str, Any], task: str, pretrained: str | None = PUBLISHED
) -> dict[str, Any]:
    """The backbone's part of a config.

    Args:
        backbone: One of :data:`NAMES`, or a config such as ``dict(type='DiNAT', ...)``, used unchanged.
        task: 'detection' or 'segmentation'. The published dilations and stochastic depth depend on it.
        pretrained: 'published' for the ImageNet weights published with the variant, a file or URL, or None
            to train from scratch. The ``init_cfg`` of a given config has priority. A given config has no
            published weights.

    Raises:
        SwapRefused: If the name, or the config's type, is unknown.
    """
    if isinstance(backbone, str):
        settings = _published(backbone, task)
        published = CLASSIFIERS[backbone].checkpoint
    elif isinstance(backbone, Mapping):
        settings = _checked(dict(backbone))
        published = None
    else:
        raise SwapRefused(
            f'backbone must be a name or a dict(type=..., ...), got {backbone!r}; give one of'
            f' {_listed(NAMES)}'
        )
    checkpoint = published if pretrained == PUBLISHED else pretrained
    if checkpoint is not None:
        settings.setdefault('init_cfg', dict(type='Pretrained', checkpoint=checkpoint))
    return settings


def build(settings: Mapping[str, Any]) -> NeighborhoodBackbone:
    """Build a backbone from its config on the meta device, for its channels and its parameters' names.

    Raises:
        SwapRefused: If its arguments are wrong.
    """
    arguments = {
        key: value for key, value in settings.items() if key not in ('type', '_scope_', 'init_cfg')
    }
    try:
        with torch.device('meta'):
            return BACKBONES[settings['type']](**arguments)
    except (TypeError, ValueError) as error:
        raise SwapRefused(f'backbone {settings["type"]} cannot be built: {error}') from error


def _published(name: str, task: str) -> dict[str, Any]:
    if name not in NAMES:
        near = difflib.get_close_matches(name.lower().replace('-', '_'), NAMES, n=3, cutoff=0)
        raise SwapRefused(
            f'backbone {name!r} is unknown (nearest: {", ".join(near)}); give one of {_listed(NAMES)}'
        )
    classifier = CLASSIFIERS[name]
    settings: dict[str, Any] = dict(type=classifier.backbone.__name__, arch=classifier.arch)
    if classifier.backbone is not NAT:
        settings['dilations'] = _dilations(classifier.backbone, classifier.arch, task)
    settings['drop_path_rate'] = _DROP_PATH[task][name]
    if classifier.layer_scale is not None:
        settings['layer_scale'] = classifier.layer_scale
    return settings


def _dilations(cls: type[NeighborhoodBackbone], arch: str, task: str) -> list[list[int]]:
    levels = _DILATIONS[task, cls]
    if task == 'segmentation' and arch == 'large':
        levels = _DILATIONS_640[cls]
    depths = cls.arch_zoo[arch]['depths']
    return [dilations * (depth // len(dilations)) for dilations, depth in zip(levels, depths, strict=True)]


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    if settings.get('type') not in BACKBONES:
        raise SwapRefused(
            f'backbone.type must be one of {_listed(tuple(BACKBONES))}, got {settings.get("type")!r}; or'
            f' give the name of a variant, {_listed(NAMES)}'
        )
    return settings


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names)
