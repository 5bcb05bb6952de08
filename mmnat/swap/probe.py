"""What backbones and necks give, found by building them alone and sending an image through.

Weights are zeros, and where a module allows it nothing is computed either (fake tensors).
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope, Registry
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from .refusal import SwapRefused

#: Side of the image: all strides up to 128 divide it. Real tensors take the smaller one.
_FAKE_SIDE, _SIDE = 512, 256

_INITIALISERS = {getattr(Tensor, name) for name in ('uniform_', 'normal_', 'erfinv_')}


#: What was found of a backbone, by its config: many configs share one.
_PROBED: dict[str, tuple[list['FeatureMap'], bool]] = {}


class OperatorMissing(Exception):
    """An operator of mmcv without a kernel for the CPU, such as CARAFE."""


@dataclass(frozen=True)
class FeatureMap:
    """An output of a backbone or a neck.

    Attributes:
        channels: its channels.
        stride: pixels of the image per pixel of the map, on each axis.
    """

    channels: int
    stride: int


class _Zeros(TorchFunctionMode):
    """Makes weights zeros: random ones of a large backbone take seconds to draw."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return args[0].zero_() if func in _INITIALISERS else func(*args, **(kwargs or {}))


def build_alone(registry: Registry, settings: Mapping[str, Any] | Sequence, part: str) -> nn.Module:
    """Build a part of a model, without initialising its weights.

    Args:
        registry: of the framework's models.
        settings: its config.
        part: what it is, for the message.

    Raises:
        SwapRefused: where it cannot be built.
    """
    name = type_name(settings)
    try:
        with (
            _quiet(),
            DefaultScope.overwrite_default_scope(registry.scope),
            torch.random.fork_rng(devices=[]),
            _Zeros(),
        ):
            module = registry.build(_attributes(without_weights(settings)))
    except Exception as error:  # whatever a constructor may raise
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise SwapRefused(
            f'the {part} {name} cannot be built here: {reason[0]}; install what it needs, or correct the'
            ' config'
        ) from error
    module.eval()
    return module


def probe_backbone(registry: Registry, settings: Mapping[str, Any]) -> tuple[list[FeatureMap], bool]:
    """The outputs of a backbone, and whether any of it is trained.

    Args:
        registry: of the framework's models.
        settings: its config, which may name the channels and the size of its images.

    Raises:
        SwapRefused: where it cannot be built, or does not give feature maps.
    """
    key = f'{registry.scope} {without_weights(settings)}'
    if key not in _PROBED:
        backbone = build_alone(registry, settings, 'present backbone')
        maps = _backbone_maps(backbone, settings)
        backbone.train()  # where many freeze what they are told to
        _PROBED[key] = maps, any(parameter.requires_grad for parameter in backbone.parameters())
    return _PROBED[key]


def _backbone_maps(backbone: nn.Module, settings: Mapping[str, Any]) -> list[FeatureMap]:
    channels = settings.get('in_channels', 3)
    channels = channels if isinstance(channels, int) else 3
    size = settings.get('img_size')
    sides = (_FAKE_SIDE, _SIDE)
    if size is not None:  # position biases may fit no other
        sides = (size, size) if isinstance(size, int) else (size[0], size[0])
    return _outputs(backbone, lambda side: torch.zeros(1, channels, side, side), 'backbone', sides)


def neck_maps(neck: nn.Module, inputs: Sequence[FeatureMap]) -> list[FeatureMap]:
    """The outputs of a neck on feature maps.

    Raises:
        SwapRefused: where it does not take them.
    """

    def maps(side: int) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(1, m.channels, side // m.stride, side // m.stride) for m in inputs)

    return _outputs(neck, maps, 'neck', (_FAKE_SIDE, _SIDE))


def type_name(settings: Any) -> str:
    """The type that a config names, or all of them where it is a list."""
    if isinstance(settings, Mapping):
        kind = settings.get('type')
        return kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    return ', '.join(map(type_name, settings)) if isinstance(settings, Sequence) else str(settings)


def without_weights(settings: Any) -> Any:
    """A copy of a config that loads no weights."""
    if isinstance(settings, Mapping):
        return {
            key: without_weights(value)
            for key, value in settings.items()
            if key not in ('init_cfg', 'pretrained')
        }
    if isinstance(settings, (list, tuple)):
        return type(settings)(map(without_weights, settings))
    return settings


def _attributes(settings: Any) -> Any:
    """The config with attribute access, which some constructors use."""
    return [ConfigDict(part) for part in settings] if isinstance(settings, list) else ConfigDict(settings)


def _outputs(
    module: nn.Module, inputs: Callable[[int], Any], part: str, sides: tuple[int, int]
) -> list[FeatureMap]:
    fake_side, side = sides
    try:
        with torch.no_grad(), _quiet():
            try:
                with FakeTensorMode(allow_non_fake_inputs=True):
                    return _described(module(inputs(fake_side)), fake_side)
            except SwapRefused:
                raise
            except Exception:  # operators without a fake kernel, sizes read as numbers
                return _described(module(inputs(side)), side)
    except SwapRefused as refusal:
        raise SwapRefused(f'the {part} {type(module).__name__} {refusal}') from None
    except Exception as error:
        if 'implementation for device' in str(error):
            raise OperatorMissing(str(error)) from error
        raise SwapRefused(
            f'the {part} {type(module).__name__} does not take its input alone: {error}; correct the config'
        ) from error


def _described(outputs: Any, side: int) -> list[FeatureMap]:
    if isinstance(outputs, Tensor):
        outputs = [outputs]
    if not isinstance(outputs, (list, tuple)) or any(
        not isinstance(output, Tensor) or output.dim() != 4 for output in outputs
    ):
        raise SwapRefused('gives more than feature maps (class tokens or texts), which ours do not have')
    return [
        FeatureMap(output.shape[1], 1 << max(round(side / output.shape[-1]) - 1, 0).bit_length())
        for output in outputs
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what constructors say about weights and norms out of the user's sight."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(previous)
