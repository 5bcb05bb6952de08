"""Reading the published models from model-index.yml and the metafiles that it lists."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from mmnat.config_files import project_folder

INDEX = 'model-index.yml'


@dataclass(frozen=True)
class PublishedModel:
    """A model as its metafile has it.

    Attributes:
        name: of the config, without suffix.
        config: the config file, relative to the project.
        metafile: the metafile, relative to the project.
        architecture: for example 'Mask R-CNN'.
        backbone: for example 'NAT-Mini'.
        dataset: for example 'COCO'.
        params: published parameters in millions.
        macs: published multiply-accumulates in billions.
        size: height and width of the image that those are for.
        iterations: of the training; None if it counts epochs.
        epochs: of the training; None if it counts iterations.
        batch_size: images in a batch, over all GPUs.
        results: task to metrics to values, in percent.
        weights: where the trained weights are.
    """

    name: str
    config: str
    metafile: str
    architecture: str
    backbone: str
    dataset: str
    params: float
    macs: float
    size: tuple[int, int]
    iterations: int | None
    epochs: int | None
    batch_size: int
    results: dict[str, dict[str, float]]
    weights: str


def metafiles() -> list[str]:
    """List the metafiles that the index imports, relative to the project."""
    return yaml.safe_load((project_folder() / INDEX).read_text())['Import']


@cache
def published_models() -> dict[str, PublishedModel]:
    """Read the published models, by config file."""
    models = {}
    for metafile in metafiles():
        for entry in yaml.safe_load((project_folder() / metafile).read_text())['Models']:
            model = _read(entry, metafile)
            models[model.config] = model
    return models


def _read(entry: dict[str, Any], metafile: str) -> PublishedModel:
    metadata = entry['Metadata']
    architecture, backbone = metadata['Architecture']
    height, width = map(int, metadata['Input Size'].split('x'))
    return PublishedModel(
        name=entry['Name'],
        config=entry['Config'],
        metafile=metafile,
        architecture=architecture,
        backbone=backbone,
        dataset=metadata['Training Data'],
        params=metadata['Parameters'] / 1e6,
        macs=metadata['FLOPs'] / 1e9,
        size=(height, width),
        iterations=metadata.get('Iterations'),
        epochs=metadata.get('Epochs'),
        batch_size=metadata['Batch Size'],
        results={result['Task']: result['Metrics'] for result in entry['Results']},
        weights=entry['Weights'],
    )
