"""Compares parameters and multiply-accumulates of configs with the published figures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmnat.config import framework, read_config
from mmnat.config_files import find_config, project_folder
from mmnat.errors import UserError
from mmnat.models.published import CLASSIFIERS
from mmnat.zoo import published_models

from .classifiers import measure_classifier
from .models import build_without_memory, count_macs, count_parameters

Row = dict[str, Any]

DETECTION_SIZE = (800, 1280)


def measure_config(path: str, size: tuple[int, int] | None = None) -> Row:
    """Count the model of a config, and find its published figures.

    Args:
        path: The config file.
        size: Height and width of the image; None for the default.

    Returns:
        ``params`` in millions and ``macs``, multiply-accumulates, in billions; ``parts``, the latter by
        part of the model; and if the model was published, ``published_params`` and ``published_macs``.
    """
    path = find_config(path)
    cfg, name = read_config(path), _relative(path)
    published = published_models().get(name)
    if published is not None and size not in (None, published.size):
        published = None
    if size is None:
        size = published.size if published else _default_size(cfg)
    model = build_without_memory(cfg)
    params = count_parameters(model)
    parts = count_macs(model, size)
    row = _row(name, size, params, sum(parts.values()), parts)
    if published:
        row.update(published_params=published.params, published_macs=published.macs)
    return row


def measure_all() -> Iterator[Row]:
    """Count the published models and the published classifiers."""
    for config in published_models():
        yield measure_config(str(project_folder() / config))
    for name, classifier in CLASSIFIERS.items():
        size = (classifier.resolution, classifier.resolution)
        row = _row(name, size, *measure_classifier(classifier), {})
        yield row | dict(published_params=classifier.params, published_macs=classifier.macs)


def _row(name: str, size: tuple[int, int], params: int, macs: int, parts: dict[str, int]) -> Row:
    return dict(
        model=name,
        height=size[0],
        width=size[1],
        params=round(params / 1e6, 3),
        macs=round(macs / 1e9, 3),
        parts={part: round(count / 1e9, 3) for part, count in parts.items()},
    )


def _relative(path: str) -> str:
    file, folder = Path(path).resolve(), project_folder()
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else path


def _default_size(cfg: Config) -> tuple[int, int]:
    if framework(cfg) == 'mmdet':
        return DETECTION_SIZE
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    for transform in dataset.get('pipeline') or []:
        if transform.get('type') == 'Resize' and isinstance(transform.get('scale'), (tuple, list)):
            return min(transform.scale), max(transform.scale)
    crop = cfg.model.get('data_preprocessor', {}).get('size')
    if crop is None:
        raise UserError(f'config {cfg.filename} names no size of images', 'give --size HEIGHT WIDTH')
    return tuple(crop)
