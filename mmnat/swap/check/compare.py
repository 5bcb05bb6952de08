"""Parameters and multiply-accumulates before a swap and after it."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from mmnat.complexity.models import count_macs, count_parameters
from mmnat.swap import Framework

from .reduction import without_files

#: Height and width of the images that multiply-accumulates are counted on.
_SIZES = dict(mmdet=(800, 1280), mmseg=(512, 512))


def comparison(before: Config, after: Config, framework: Framework) -> str:
    """A table of both models' sizes."""
    size = _SIZES[framework.name]
    lines = [f'{"":8}{"parameters":>12}{f"MACs at {size[0]}x{size[1]}":>20}']
    for name, cfg in (('before', before), ('after', after)):
        settings = without_files(cfg.model.to_dict())
        params = count_parameters(_build(settings, framework)) / 1e6
        lines.append(f'{name:8}{f"{params:.1f} M":>12}{_macs(settings, framework, size):>20}')
    return '\n'.join(lines)


def _build(settings: Mapping[str, Any], framework: Framework) -> nn.Module:
    with DefaultScope.overwrite_default_scope(framework.name):
        return framework.registry.build(ConfigDict(settings))


def _macs(settings: Mapping[str, Any], framework: Framework, size: tuple[int, int]) -> str:
    """The count, or that there is none: not of every model is it known which parts count."""
    try:
        with torch.device('meta'):
            model = _build(settings, framework)
        return f'{sum(count_macs(model, size).values()) / 1e9:.1f} G'
    except Exception:  # constructors that compute, operators without a count
        return 'not counted'
