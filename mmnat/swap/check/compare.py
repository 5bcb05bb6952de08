"""Parameters and multiply-accumulates before a swap and after it."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from rich.table import Column, Table
from torch import nn

from mmnat.complexity.models import count_macs, count_parameters
from mmnat.swap import Framework

from .reduction import without_files

#: Height and width of the images that multiply-accumulates are counted for.
_SIZES = dict(mmdet=(800, 1280), mmseg=(512, 512))


def comparison(before: Config, after: Config, framework: Framework) -> Table:
    """Make a table of both models' parameters and multiply-accumulates.

    Args:
        before: The config before the swap.
        after: The config after it.
        framework: The configs' framework.
    """
    height, width = _SIZES[framework.name]
    columns = (Column(name, justify='right') for name in ('parameters', f'MACs at {height}x{width}'))
    table = Table('', *columns, box=None, pad_edge=False)
    for name, cfg in (('before', before), ('after', after)):
        settings = without_files(cfg.model.to_dict())
        parameters = count_parameters(_build(settings, framework)) / 1e6
        table.add_row(name, f'{parameters:.1f} M', _macs(settings, framework, (height, width)))
    return table


def _build(settings: Mapping[str, Any], framework: Framework) -> nn.Module:
    with DefaultScope.overwrite_default_scope(framework.name):
        return framework.registry.build(ConfigDict(settings))


def _macs(settings: Mapping[str, Any], framework: Framework, size: tuple[int, int]) -> str:
    """The count, or that there is none."""
    try:
        with torch.device('meta'):
            model = _build(settings, framework)
        return f'{sum(count_macs(model, size).values()) / 1e9:.1f} G'
    except Exception:  # a constructor that computes, or an operator that cannot be counted
        return 'not counted'
