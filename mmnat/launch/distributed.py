"""Sets up distributed runs on machines without a GPU, which mmengine does not."""

import os
from datetime import timedelta

import torch
from mmengine.config import Config

from mmnat.config_tree import walk
from mmnat.errors import UserError

from .slurm import process_group_variables

#: What the environment has if the processes are started as a launcher expects, and how to start them.
_STARTED_BY = {
    'pytorch': ('RANK', 'start the run through torchrun, tools/dist_train.sh or tools/dist_test.sh'),
    # A batch script has SLURM_PROCID, too.
    'slurm': ('SLURM_STEP_ID', 'start the run through srun, tools/slurm_train.sh or tools/slurm_test.sh'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'start the run through mpirun of Open MPI'),
}


def name_processes(launcher: str) -> None:
    """Give the processes of Slurm and of Open MPI the variables that torchrun sets. Call it first.

    Args:
        launcher: That of the command line. Without one, each process is a run of its own.

    Raises:
        UserError: If there are more processes than GPUs.
    """
    if launcher == 'slurm' and _STARTED_BY['slurm'][0] in os.environ:
        os.environ.update(process_group_variables())
    elif launcher == 'mpi' and _STARTED_BY['mpi'][0] in os.environ:
        os.environ['RANK'] = os.environ[_STARTED_BY['mpi'][0]]


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
    _check_environment(cfg.launcher)
    if cfg.launcher == 'slurm':
        _continue_as_torchrun(cfg)
    if not _distributed_on_cpu(cfg):
        return
    if cfg.launcher != 'pytorch':
        raise UserError(
            f'--launcher {cfg.launcher} needs a CUDA device, and there is none',
            'use --launcher pytorch or slurm, which also run on CPUs',
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
        torch.distributed.init_process_group('gloo', timeout=time_limit(cfg))


def time_limit(cfg: Config) -> timedelta | None:
    """How long processes wait for each other, in ``env_cfg.dist_cfg.timeout``; None is torch's default."""
    seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    return None if seconds is None else timedelta(seconds=seconds)


def _continue_as_torchrun(cfg: Config) -> None:
    """From here on Slurm's processes are like those of torchrun."""
    cfg.launcher = 'pytorch'
    port = cfg.get('env_cfg', {}).get('dist_cfg', {}).pop('port', None)  # only mmengine's Slurm takes it
    if port is not None:
        os.environ['MASTER_PORT'] = str(port)


def _check_environment(launcher: str) -> None:
    """Check that what started the processes is what the launcher expects, and that each has a GPU."""
    name, remedy = _STARTED_BY.get(launcher, ('', ''))
    if name and name not in os.environ:
        raise UserError(f'--launcher {launcher} finds no {name} in the environment', remedy)
    processes = int(os.environ.get('WORLD_SIZE', 1))
    if launcher == 'none' and 'TORCHELASTIC_RUN_ID' in os.environ and processes > 1:
        raise UserError(
            f'torchrun started {processes} processes, and without --launcher each would run alone',
            'add --launcher pytorch',
        )
    processes, devices = int(os.environ.get('LOCAL_WORLD_SIZE', 1)), torch.cuda.device_count()
    if launcher == 'pytorch' and torch.cuda.is_available() and processes > devices:
        raise UserError(
            f'{processes} processes were started, and {devices} GPUs are visible',
            'start one process for each GPU, or set CUDA_VISIBLE_DEVICES to more of them',
        )


def _distributed_on_cpu(cfg: Config) -> bool:
    return cfg.launcher != 'none' and not torch.cuda.is_available()
