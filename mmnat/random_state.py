"""The random number generators that models are built, initialized and trained with."""

import random
from typing import Any

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
        self.restore_torch()

    def restore_torch(self) -> None:
        """The same for torch's generators only."""
        torch.set_rng_state(self._cpu)
        if len(self._cuda) <= torch.cuda.device_count():
            torch.cuda.set_rng_state_all(self._cuda)

    def state_dict(self) -> dict[str, Any]:
        """It as plain data, for a checkpoint."""
        return dict(python=self._python, numpy=self._numpy, cpu=self._cpu, cuda=self._cuda)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> 'RandomState':
        """The state that :meth:`state_dict` gave."""
        self = cls.__new__(cls)
        self._python, self._numpy = state['python'], state['numpy']
        # A checkpoint's tensors may have been loaded to a GPU.
        self._cpu, self._cuda = state['cpu'].cpu(), [generator.cpu() for generator in state['cuda']]
        return self
