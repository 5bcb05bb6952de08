"""Counts multiply-accumulates on tensors that have shapes but no memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode


class _KnownSizes(TorchFunctionMode):
    """Keeps the values of tensors that hold sizes: deformable attention splits its levels by them."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is torch._shape_as_tensor:
            with unset_fake_temporarily():
                return torch.tensor(args[0].shape)
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        with unset_fake_temporarily():
            args, kwargs = tree_map(_as_number, (args, kwargs))
        return func(*args, **kwargs)


def _as_number(value: Any) -> Any:
    known = isinstance(value, Tensor) and not isinstance(value, FakeTensor) and value.dim() == 0
    return value.item() if known else value


@contextmanager
def without_memory(model: nn.Module) -> Iterator[nn.Module]:
    """Make a model on the meta device, and all new tensors, look as if they were on the CPU.

    Args:
        model: The model. It cannot be used afterwards.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), _KnownSizes(), torch.no_grad():
        yield model.to_empty(device='cpu').eval()


def count(function: Callable, *args: Any) -> tuple[Any, int]:
    """Call a function and count the multiply-accumulates of its products, convolutions and attention.

    Args:
        function: The function.
        args: Its arguments.

    Returns:
        Its result and the number.
    """
    with FlopCounterMode(display=False) as counter:
        result = function(*args)
    return result, counter.get_total_flops() // 2
