"""``compile`` of a config: mmengine compiles the training step."""

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmnat.errors import UserError


class OptimizerUncompiled(Hook):
    """Leaves the optimizer out of the compiled training step: torch cannot trace it inside.

    Forward and backward are compiled.
    """

    def before_train(self, runner: Runner) -> None:
        """Replace the method of the optimizer that the training step calls."""
        wrapper = runner.optim_wrapper
        wrapper.update_params = torch.compiler.disable(wrapper.update_params)


def is_compiled(cfg: Config) -> bool:
    """Whether a config has the training step compiled.

    Args:
        cfg: The config.

    Raises:
        UserError: If ``compile`` is no bool and no options of torch.compile.
    """
    options = cfg.get('compile')
    if options is None or isinstance(options, bool):
        return bool(options)
    remedy = "write compile = True, or options of torch.compile such as compile = dict(mode='default')"
    if not isinstance(options, dict):
        raise UserError(f'compile = {options!r} is neither a bool nor a dict', remedy)
    try:
        torch.compile(_nothing, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'torch.compile rejects compile = {dict(options)}: {reason}', remedy) from error
    return True


def _nothing() -> None: ...
