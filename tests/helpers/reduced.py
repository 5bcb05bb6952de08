"""Configs of published models at a size that trains for a step within seconds."""

import copy
from typing import Any

from mmengine.config import Config

CHANNELS = [32, 64, 128, 256]
DEPTHS = (1, 1, 2, 1)
# Settings of heads, transformers and proposals, wherever they are in the model.
SMALL = dict(
    num_queries=20, num_layers=2, fc_out_channels=64, channels=64, num=16, nms_pre=50, max_per_img=20
)
# Sizes of images in pipelines and data preprocessors.
SIZES = ('scale', 'scales', 'size', 'crop_size', 'img_scale', 'max_size')


def reduce(cfg: Config) -> Config:
    """Shrink a config of mmdet or mmseg with one of our backbones; all else stays what it was.

    - The backbone becomes narrow and shallow and starts from scratch; its kernel size, its dilations (as
      many as there are blocks) and its rates stay.
    - The channels that neck, decode heads and pixel decoder take in follow it.
    - Queries, layers of transformers, proposals and samples of them, channels of mmseg's heads and of the
      fully connected layers of box heads become few.
    - Sizes in pipelines and data preprocessors become a fifth, as a multiple of 32.

    Batch size, workers and data stay. Synchronized batch norm has to be replaced in the model once it is
    built, with :func:`mmengine.model.revert_sync_batchnorm`.

    Args:
        cfg (Config): The config; not changed.

    Returns:
        Config: The reduced config.
    """
    cfg = copy.deepcopy(cfg)
    _reduce_backbone(cfg.model.backbone)
    for name in ('neck', 'decode_head', 'auxiliary_head', 'panoptic_head'):
        _follow_backbone(cfg.model.get(name))
    _make_small(cfg.model)
    _shrink_images(cfg.model.data_preprocessor)
    for name, value in cfg.items():
        if name.endswith(('_dataloader', '_pipeline')):
            _shrink_images(value)
    return cfg


def _reduce_backbone(backbone: dict) -> None:
    for name in ('arch', 'init_cfg'):
        backbone.pop(name, None)
    backbone.update(embed_dim=CHANNELS[0], depths=DEPTHS, num_heads=(1, 2, 4, 8))
    backbone.setdefault('mlp_ratio', 2.0)
    if backbone.get('dilations') is not None:
        levels = zip(backbone.dilations, DEPTHS, strict=True)
        backbone.dilations = [level[:depth] for level, depth in levels]


def _follow_backbone(part: Any) -> None:
    if isinstance(part, list):
        for head in part:
            _follow_backbone(head)
    elif part is not None and isinstance(part.in_channels, int):
        part.in_channels = CHANNELS[part.get('in_index', -1)]
    elif part is not None:
        part.in_channels = list(CHANNELS)


def _make_small(node: Any) -> None:
    if isinstance(node, dict):
        node.update({name: value for name, value in SMALL.items() if name in node})
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            _make_small(value)


def _shrink_images(node: Any) -> None:
    if isinstance(node, dict):
        for name, value in node.items():
            if name in SIZES:
                node[name] = _fifth(value)
            else:
                _shrink_images(value)
    elif isinstance(node, list):
        for value in node:
            _shrink_images(value)


def _fifth(size: Any) -> Any:
    """A fifth of a side, or of all sides in a nest of lists and tuples."""
    if isinstance(size, (list, tuple)):
        return type(size)(_fifth(side) for side in size)
    return max(32, round(size / 5 / 32) * 32)
