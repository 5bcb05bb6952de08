"""Optimizer constructors for the backbones."""

from .layer_decay import NATLayerDecayOptimizerConstructor

__all__ = ['NATLayerDecayOptimizerConstructor']
