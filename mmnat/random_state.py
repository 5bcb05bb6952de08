"""The random number generators that models are built, initialized and trained with."""

import random

import numpy as np
import torch


class RandomState:
    """The present state of the generators of Python, NumPy and torch, on the CPU and on CUDA."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore(self) -> None:
        """Set the generators to this state again."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._cpu)
        torch.cuda.set_rng_state_all(self._cuda)
