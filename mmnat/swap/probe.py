"""The feature maps of backbones and necks, found by building each alone and running it on an image.

Weights are zeros. Modules that support fake tensors compute nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope, Registry
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from mmnat.config_tree import copy_with
from mmnat.quiet import quiet

from .refusal import SwapRefused

#: Side of the image, which all strides up to 128 divide: for fake tensors, and for real ones.
_FAKE_SIDE, _SIDE = 512, 256

_INITIALIZERS = {getattr(Tensor, name) for name in ('uniform_', 'normal_', 'erfinv_')}

#: Results of :func:`probe_backbone` by the backbone's config, which many configs share.
_PROBED: dict[str, tuple[list['FeatureMap'], bool]] = {}


class OperatorMissing(Exception):
    """An operator of mmcv without a kernel for the CPU, such as CARAFE."""


@dataclass(frozen=True)
class FeatureMap:
    """An output of a backbone or a neck.

    Attributes:
        channels: The number of channels.
        stride: Pixels of the image per pixel of the map, on each axis.
    """

    channels: int
    stride: int


class _Zeros(TorchFunctionMode):
    """Makes all weights zeros; to draw the random weights of a large backbone takes seconds."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return args[0].zero_() if func in _INITIALIZERS else func(*args, **(kwargs or {}))


def build_alone(registry: Registry, settings: Mapping[str, Any] | Sequence, part: str) -> nn.Module:
    """Build a part of a model, without initializing its weights.

    Args:
        registry: The registry of the framework's models.
        settings: The part's config.
        part: What the part is, for the message.

    Raises:
        SwapRefused: If it cannot be built.
    """
    name = type_name(settings)
    try:
        with (
            quiet(),
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
    """Find the outputs of a backbone, and whether any part of it is trained.

    Args:
        registry: The registry of the framework's models.
        settings: The backbone's config, which may name the channels and the size of its images.

    Raises:
        SwapRefused: If it cannot be built, or does not give feature maps.
    """
    key = f'{registry.scope} {without_weights(settings)}'
    if key not in _PROBED:
        backbone = build_alone(registry, settings, 'present backbone')
        maps = _backbone_maps(backbone, settings)
        backbone.train()  # here many backbones freeze the stages that their config names
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
    """Find the outputs of a neck on feature maps.

    Raises:
        SwapRefused: If it does not accept them.
    """

    def maps(side: int) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(1, m.channels, side // m.stride, side // m.stride) for m in inputs)

    return _outputs(neck, maps, 'neck', (_FAKE_SIDE, _SIDE))


def type_name(settings: Any) -> str:
    """The type that a config names; all types if it is a list."""
    if isinstance(settings, Mapping):
        kind = settings.get('type')
        return kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    return ', '.join(map(type_name, settings)) if isinstance(settings, Sequence) else str(settings)


def without_weights(settings: Any) -> Any:
    """A copy of a config that loads no weights."""
    return copy_with(
        settings, lambda part: {k: v for k, v in part.items() if k not in ('init_cfg', 'pretrained')}
    )


def _attributes(settings: Any) -> Any:
    """A config with attribute access, which some constructors use."""
    return [ConfigDict(part) for part in settings] if isinstance(settings, list) else ConfigDict(settings)


def _outputs(
    module: nn.Module, inputs: Callable[[int], Any], part: str, sides: tuple[int, int]
) -> list[FeatureMap]:
    fake_side, side = sides
    try:
        with torch.no_grad(), quiet():
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
