"""A runner that checks a run before it starts, for the launchers of mmdet and mmseg."""

import copy
from collections.abc import Callable

from mmengine.config import Config
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmnat.random_state import RandomState

from .checks import check_testing, check_training


class CheckedRunner(Runner):
    """mmengine's runner, which makes the checks of ``mmnat train`` and ``mmnat test`` first.

    mmdet's and mmseg's own ``tools/train.py`` and ``tools/test.py`` use it if a config has the line::

        runner_type = 'mmnat.preflight.runner.CheckedRunner'

    The checks run before any data set is built. A mistake in the config, the data or the weights raises
    :class:`mmnat.errors.UserError` or :class:`mmnat.errors.CheckpointError`, whose message says what to do.

    Attributes:
        is_checked: Whether the launcher has made the checks itself.
    """

    is_checked = False

    def train(self) -> nn.Module:
        """Check the training, then launch it."""
        self._check(check_training)
        return super().train()

    def test(self) -> dict:
        """Check the test, then launch it."""
        self._check(check_testing)
        return super().test()

    def _check(self, check: Callable[[Config, nn.Module], None]) -> None:
        if self.is_checked:
            return
        model = self.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        state = RandomState()
        # A copy, since the checks load weights into the model that they are given.
        check(self.cfg, copy.deepcopy(model))
        state.restore()
