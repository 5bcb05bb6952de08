"""What Slurm tells the processes of a run, in the variables that torch reads."""

import os
import re
from collections.abc import Mapping

import torch

from mmnat.errors import UserError

# Below the ports that systems give to connections, and above those of most services.
_PORTS = range(15000, 30000)
_STEPS = 8  # that one job may well run at the same time


def process_group_variables(slurm: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Translate the variables of a process that srun started.

    Args:
        slurm: The environment. ``MASTER_ADDR`` and ``MASTER_PORT`` are kept if they are there.

    Returns:
        ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``.

    Raises:
        UserError: If the processes of this machine are more than its GPUs.
    """
    variables = dict(
        RANK=slurm['SLURM_PROCID'],
        WORLD_SIZE=slurm['SLURM_STEP_NUM_TASKS'],
        LOCAL_RANK=_local_rank(int(slurm['SLURM_LOCALID'])),
        MASTER_ADDR=_master_address(slurm),
        MASTER_PORT=_master_port(slurm),
    )
    return variables | {name: slurm[name] for name in ('MASTER_ADDR', 'MASTER_PORT') if name in slurm}


def _local_rank(number: int) -> str:
    """The GPU of a process. If Slurm shows it only one (--gpus-per-task=1), that is the first."""
    devices = torch.cuda.device_count()
    if devices > 1 and number >= devices:
        raise UserError(
            f'more than {number} processes were started on a machine where {devices} GPUs are visible',
            'set GPUS_PER_NODE to the number of GPUs, or srun --ntasks-per-node',
        )
    return '0' if devices == 1 else str(number)


def _master_address(slurm: Mapping[str, str]) -> str:
    # Names of nodes need not be names of hosts, but this one always is.
    return '127.0.0.1' if slurm['SLURM_STEP_NUM_NODES'] == '1' else first_node(slurm['SLURM_STEP_NODELIST'])


def first_node(nodes: str) -> str:
    """The first name of a list as Slurm writes it, for example ``gpu07`` of ``gpu[07-09,12],login``."""
    names = re.match(r'(?:\[[^\]]*\]|[^,\[])*', nodes)
    return re.sub(r'\[(\d+)[^\]]*\]', r'\1', names.group() if names else '')


def _master_port(slurm: Mapping[str, str]) -> str:
    """A port that runs at the same time on one machine do not share."""
    step = slurm['SLURM_STEP_ID']
    number = int(slurm['SLURM_JOB_ID']) * _STEPS + int(step) % _STEPS
    return str(_PORTS[number % len(_PORTS)])
