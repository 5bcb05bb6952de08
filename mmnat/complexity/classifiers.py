"""Counts the published classifiers: one of our backbones and a linear layer on its averaged output."""

import torch

from mmnat.models.published import Classifier

from .counting import count, without_memory

CLASSES = 1000


def measure_classifier(classifier: Classifier) -> tuple[int, int]:
    """Count the parameters and the multiply-accumulates of a classifier on one image."""
    with torch.device('meta'):
        backbone = classifier.build()
    head = (backbone.num_features[-1] + 1) * CLASSES
    params = sum(parameter.numel() for parameter in backbone.parameters()) + head
    with without_memory(backbone):
        image = torch.empty(1, 3, classifier.resolution, classifier.resolution)
        macs = count(backbone, image)[1]
    return params, macs + backbone.num_features[-1] * CLASSES
