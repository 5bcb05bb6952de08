"""Build the model of a config, and run a loss step and a prediction."""

import copy
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope, Registry

from mmnat.quiet import quiet

from .reduction import is_tracker, reduced
from .upstream import Fault, mend

#: Names for users of the functions that run a model.
_STEPS = dict(_loss='loss', _predict='prediction')
#: Settings of an optimizer wrapper that group the parameters.
_GROUPING = ('optimizer', 'paramwise_cfg', 'constructor')


class DoesNotRun(Exception):
    """A model that a check could not build or run."""


@dataclass(frozen=True)
class Run:
    """A model that ran.

    Attributes:
        faults: Faults of installed packages that the check mended in memory before the model ran.
        notes: What the check left out.
    """

    faults: list[Fault]
    notes: list[str]


def check_runs(cfg: Config, registry: Registry) -> Run:
    """Build a config's model and optimizer, run a loss step, its backward and a prediction on random data.

    Args:
        cfg: The config.
        registry: The registry of the framework's models.

    Raises:
        DoesNotRun: If any of these steps fails, or a loss is not finite.
    """
    torch.manual_seed(0)
    # Losses with a warm-up ask for the iteration and the epoch.
    MessageHub.get_current_instance().update_info_dict(dict(iter=0, epoch=0))
    try:
        with quiet(), DefaultScope.overwrite_default_scope(registry.scope):
            return _run(ConfigDict(reduced(cfg.model.to_dict())), cfg.get('optim_wrapper'), registry)
    except DoesNotRun:
        raise
    except Exception as error:  # a model may raise anything
        step = _STEPS.get(_failed_step(error), 'build')
        raise DoesNotRun(f'{step}: {type(error).__name__}: {_first_line(error)}') from error


def _run(config: ConfigDict, optim_wrapper: ConfigDict | None, registry: Registry) -> Run:
    model = _build(config, registry)
    if optim_wrapper and 'optimizer' in optim_wrapper:
        # Not the wrapper's own type: AmpOptimWrapper needs a GPU.
        settings = {key: optim_wrapper[key] for key in _GROUPING if key in optim_wrapper}
        build_optim_wrapper(model, ConfigDict(type='OptimWrapper', **settings))
    run = Run(faults=mend(model), notes=[])
    if _only_for_testing(config):
        run.notes.append('prediction only: the config is for testing')
    else:
        _loss(model, config, registry.scope)
    _predict(model, config, registry.scope)
    return run


def _only_for_testing(config: Mapping[str, Any]) -> bool:
    """Whether a config lacks assigners or losses, as the zero-shot configs of models that read text do."""
    if 'language_model' not in config:
        return False
    return not config.get('train_cfg') or 'loss_bbox' not in config['bbox_head']


def _failed_step(error: Exception) -> str:
    """Which of the functions that run a model raised an error."""
    names = (frame.name for frame in traceback.extract_tb(error.__traceback__))
    return next((name for name in names if name in _STEPS), '')


def _build(config: dict[str, Any], registry: Registry) -> Any:
    if _needs_text_encoder(config):
        from .text_encoder import stand_in_for_configs

        stand_in_for_configs()
    model = registry.build(copy.deepcopy(config))
    model.init_weights()
    return revert_sync_batchnorm(model)


def _needs_text_encoder(config: Mapping[str, Any]) -> bool:
    return 'language_model' in config


def _loss(model: Any, config: dict[str, Any], scope: str) -> None:
    model.train()
    inner, config = _trained_part(model, config)
    data = _preprocessed(model, inner, _batch(config, scope, training=True), training=True)
    losses, log = inner.parse_losses(inner(**data, mode='loss'))
    if not torch.isfinite(losses):
        wrong = [name for name, value in log.items() if not torch.isfinite(torch.as_tensor(value)).all()]
        raise DoesNotRun(f'loss: {", ".join(wrong)} is not finite')
    losses.backward()
    trained = [p for name, p in inner.named_parameters() if 'backbone' in name and p.requires_grad]
    if trained and all(p.grad is None for p in trained):
        raise DoesNotRun('loss: no gradient reaches the backbone')


@torch.no_grad()
def _predict(model: Any, config: dict[str, Any], scope: str) -> None:
    model.eval()
    inner, config = _trained_part(model, config)
    data = _preprocessed(model, inner, _batch(config, scope, training=False), training=False)
    results = inner(**data, mode='predict')
    if len(results) != len(data['data_samples']):
        raise DoesNotRun(f'prediction: {len(results)} results for {len(data["data_samples"])} images')


def _trained_part(model: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model, or the detector inside a tracker."""
    if is_tracker(config):
        return model.detector, config['detector']
    return model, config


def _batch(config: dict[str, Any], scope: str, training: bool) -> dict[str, Any]:
    # Batch norms need two images to train; some models predict one at a time.
    images = 2 if training else 1
    if scope == 'mmseg':
        from .segmentation_data import segmentation_batch

        return segmentation_batch(config, images)
    from .detection_data import detection_batch, video_batch

    if _is_video(config):
        return video_batch(config, images)
    batch = detection_batch(config, images)
    if 'semi_train_cfg' in config and not training:
        return {key: value['sup'] for key, value in batch.items()}
    return batch


def _is_video(config: Mapping[str, Any]) -> bool:
    preprocessor = (config.get('data_preprocessor') or {}).get('type', '')
    return preprocessor.endswith('TrackDataPreprocessor')


def _preprocessed(model: Any, inner: Any, batch: dict[str, Any], training: bool) -> dict[str, Any]:
    if inner is model:
        return model.data_preprocessor(batch, training)
    # A tracker's preprocessor takes videos, its detector images.
    images = torch.stack([image.float() for image in batch['inputs']])
    return dict(inputs=images / 64 - 2, data_samples=batch['data_samples'])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else 'no message'
