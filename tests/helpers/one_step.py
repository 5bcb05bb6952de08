"""One step of training and one prediction of a config's model, through the pipelines that it names."""

import numpy as np
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmnat.launch.amp import enable_amp


def build_model(cfg):
    """The model, initialized, with synchronized batch norm replaced as mmengine's runner does."""
    torch.manual_seed(0)
    np.random.seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    return model


def build_loader(loader):
    return Runner.build_dataloader(dict(loader, num_workers=0, persistent_workers=False), seed=0)


def train_one_step(cfg, model):
    """Train; every parameter gets a finite gradient. Returns the batch."""
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':
        enable_amp(cfg)
    model.train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    batch = model.data_preprocessor(next(iter(build_loader(cfg.train_dataloader))), training=True)
    with wrapper.optim_context(model):
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
    assert loss.isfinite()
    wrapper.backward(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    wrapper.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    return batch


def predict_one(cfg, model):
    """Predict on the first image of the test data. Returns the data sample."""
    model.eval()
    with torch.no_grad():
        (result,) = model.test_step(next(iter(build_loader(cfg.test_dataloader))))
    return result
