"""Automatic mixed precision on CUDA and on the CPU."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner.amp import autocast
from mmengine.utils import apply_to
from torch import nn

from mmnat.errors import UserError


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed precision on the CPU: bfloat16, whose range needs no loss scaling.

    Args:
        **kwargs: See :class:`mmengine.optim.OptimWrapper`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _run_mmcv_ops_in_float32()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run those operators of the forward pass in bfloat16 that autocast considers safe."""
        with super().optim_context(model), autocast('cpu', dtype=torch.bfloat16):
            yield


@functools.cache
def _run_mmcv_ops_in_float32() -> None:
    # mmcv's CPU operators, for example NMS and RoIAlign, have no bfloat16 version.
    import_module('mmcv.ops')
    for function in torch.autograd.Function.__subclasses__():
        if function.__module__.startswith('mmcv.ops.'):
            for step in ('forward', 'backward'):
                setattr(function, step, staticmethod(_in_float32(getattr(function, step))))


def _in_float32(step: Callable) -> Callable:
    """Run a step of an autograd function in float32, with inputs and outputs in bfloat16."""

    @functools.wraps(step)
    def wrapper(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(_has_dtype(value, torch.bfloat16) for value in args):
            return step(ctx, *args, **kwargs)
        in_float32 = (value.float() if _has_dtype(value, torch.bfloat16) else value for value in args)
        with autocast('cpu', enabled=False):
            outputs = step(ctx, *in_float32, **kwargs)
        is_float32 = functools.partial(_has_dtype, dtype=torch.float32)
        return apply_to(outputs, is_float32, torch.Tensor.bfloat16)

    return wrapper


def _has_dtype(value: Any, dtype: torch.dtype) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == dtype


def enable_amp(cfg: Config) -> None:
    """Make a config train with automatic mixed precision."""
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', OptimWrapper):
        raise UserError(
            f'--amp does not go with optim_wrapper.type = {kind!r}',
            "leave out --amp, or use 'OptimWrapper'",
        )
    if torch.cuda.is_available():
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
        return
    wrapper.type = 'CPUAmpOptimWrapper'
    for name in ('loss_scale', 'dtype', 'use_fsdp'):
        wrapper.pop(name, None)
