"""Importing this module makes mmengine's runner check each run before it starts.

One line in a config brings the checks to every launcher, also to ``tools/train.py`` and ``tools/test.py``
of mmdet and mmseg::

    custom_imports = dict(imports=['mmnat.preflight.enforce'])

A mistake in the config, the data or the weights raises :class:`mmnat.errors.UserError` or
:class:`mmnat.errors.CheckpointError`, whose message says what to do.

The module replaces two methods of the runner, because mmengine has no other way: its first hook runs after
the data sets are built, which is where most mistakes surface, and mmseg's ``tools/test.py`` ignores
``runner_type``.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmnat.random_state import RandomState

from .checks import check_testing, check_training


def _checked_first(run: Callable[[Runner], Any], check: Callable[[Config, nn.Module], None]) -> Callable:
    @functools.wraps(run)
    def wrapper(runner: Runner) -> Any:
        # The launcher of mmnat checks before it builds the runner.
        if not getattr(runner, 'is_checked', False):
            _check(runner, check)
        return run(runner)

    return wrapper


def _check(runner: Runner, check: Callable[[Config, nn.Module], None]) -> None:
    """Check a run, and leave the model and the random numbers of the runner as they are."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    state = RandomState()
    check(runner.cfg, copy.deepcopy(model))
    state.restore()


Runner.train = _checked_first(Runner.train, check_training)
Runner.test = _checked_first(Runner.test, check_testing)
