"""All checks of a run, before it creates anything."""

from collections.abc import Sequence

from mmengine.config import Config
from torch import nn

from .arguments import check_arguments
from .datasets import ConfigDataset, check_datasets, check_drop_last, check_overlap
from .evaluators import check_evaluators, check_monitored
from .loaders import check_loaders
from .models import check_agreement, check_ignored, check_num_classes
from .objects import Split, check_training_objects
from .optimizer import build_optimizer
from .registries import check_runtime_types
from .schedules import check_param_scheduler
from .structure import check_structure
from .visualizer import check_vis_backends
from .weights import check_checkpoint, check_load_from, check_pretrained, check_resume
from .work_dir import check_work_dir


def check_training(cfg: Config, model: nn.Module) -> None:
    """Check types, data sets, numbers of classes, optimizer and weights of a training, and where it writes.

    Args:
        cfg: The config.
        model: Its model, built and not initialized. The checks load weights into it.

    Raises:
        UserError: If something the user can correct is wrong.
        CheckpointError: If a checkpoint cannot be used.
    """
    check_structure(cfg)
    check_work_dir(cfg, model)
    loaders = ('train_dataloader', 'val_dataloader')
    check_runtime_types(cfg, train=True)
    check_arguments(cfg, train=True)
    check_vis_backends(cfg)
    check_loaders(cfg, loaders)
    datasets = check_datasets(cfg, loaders)
    check_num_classes(model, datasets)
    check_agreement(model, datasets)
    check_ignored(model, [dataset for dataset in datasets if dataset.field.startswith('train_')])
    check_overlap(datasets)
    check_drop_last(cfg, datasets)
    check_training_objects(_splits(datasets, 'train'), 'train_dataloader', model)
    check_evaluators(cfg, 'val', _splits(datasets, 'val'), model)
    check_monitored(cfg)
    check_pretrained(model)
    optimizer = build_optimizer(cfg, model)
    check_param_scheduler(cfg, optimizer)
    if cfg.get('resume'):
        check_resume(cfg, model, optimizer)
    elif cfg.get('load_from'):
        check_load_from(cfg.load_from, model)


def check_testing(cfg: Config, model: nn.Module) -> None:
    """Check types, the checkpoint ``load_from``, data sets and numbers of classes of a test.

    Args:
        cfg: The config.
        model: Its model. The checks load weights into it.

    Raises:
        UserError: If something the user can correct is wrong.
        CheckpointError: If the checkpoint cannot be used.
    """
    check_structure(cfg)
    check_work_dir(cfg)
    check_runtime_types(cfg, train=False)
    check_arguments(cfg, train=False)
    check_vis_backends(cfg)
    check_loaders(cfg, ('test_dataloader',))
    if cfg.get('load_from'):
        check_checkpoint(cfg.load_from, model)
    datasets = check_datasets(cfg, ('test_dataloader',))
    check_num_classes(model, datasets)
    check_evaluators(cfg, 'test', _splits(datasets, 'test'), model)


def _splits(datasets: Sequence[ConfigDataset], stage: str) -> list[Split | None]:
    return [dataset.split for dataset in datasets if dataset.field.startswith(f'{stage}_dataloader.')]
