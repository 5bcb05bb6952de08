"""A model that is built before mmengine's runner, from the random numbers that the runner would use."""

from mmengine.config import Config
from mmengine.runner import set_random_seed

from mmnat.preflight.models import build_model
from mmnat.random_state import RandomState


class SeededModel:
    """Seeds the random number generators as mmengine's runner does, then builds the model of a config.

    Args:
        cfg: The config.

    Attributes:
        model: The model, built and not initialized.
        seed: The seed of the config, or one drawn here if the config has none.
        random_state: The random number generators after the model was built.
    """

    def __init__(self, cfg: Config) -> None:
        self.seed = set_random_seed(**cfg.get('randomness', {}))
        self.model = build_model(cfg)
        self.random_state = RandomState()
