"""Sets up distributed runs on machines without a GPU, which mmengine does not."""

import os

import torch
from mmengine.config import Config

from mmnat.config_tree import walk
from mmnat.errors import UserError


def configure_distribution(cfg: Config) -> None:
    """Adapt a config to the launcher and to the available devices.

    On CPUs the processes communicate through gloo, the model wrapper gets no device ids, and plain batch
    norm replaces synchronized batch norm, which only runs on GPUs. If a run is not distributed,
    mmengine's runner replaces synchronized batch norm itself.

    Args:
        cfg: The config, which is changed.

    Raises:
        UserError: If the launcher does not fit the environment or the devices.
    """
    if cfg.launcher == 'pytorch' and 'RANK' not in os.environ:
        raise UserError(
            '--launcher pytorch finds no RANK in the environment',
            'start the run through torchrun, tools/dist_train.sh or tools/dist_test.sh',
        )
    _check_devices(cfg)
    if not _distributed_on_cpu(cfg):
        return
    if cfg.launcher != 'pytorch':
        raise UserError(
            f'--launcher {cfg.launcher} needs a CUDA device, and there is none',
            'use --launcher pytorch, which also runs on CPUs',
        )
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = {**wrapper, **cfg.get('model_wrapper_cfg', {}), 'device_ids': None}
    for _, part in walk(cfg.model):
        if part.get('type') in ('SyncBN', 'MMSyncBN'):
            part['type'] = 'BN'


def init_distribution(cfg: Config) -> None:
    """Join the process group of a run that is distributed over CPUs."""
    # mmengine's init_dist selects a CUDA device for every backend, but does nothing if a group exists.
    if _distributed_on_cpu(cfg) and not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')


def _check_devices(cfg: Config) -> None:
    """Check that each process of this machine has a GPU, if it has any."""
    processes, devices = int(os.environ.get('LOCAL_WORLD_SIZE', 1)), torch.cuda.device_count()
    if cfg.launcher == 'pytorch' and torch.cuda.is_available() and processes > devices:
        raise UserError(
            f'{processes} processes were started, and {devices} GPUs are visible',
            'start one process for each GPU, or set CUDA_VISIBLE_DEVICES to more of them',
        )


def _distributed_on_cpu(cfg: Config) -> bool:
    return cfg.launcher != 'none' and not torch.cuda.is_available()
