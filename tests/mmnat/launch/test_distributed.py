"""Distributed runs that were not started as they should be."""

import pytest

pytest.importorskip('mmengine')

import torch
from mmengine.config import Config

from mmnat.errors import UserError
from mmnat.launch.distributed import configure_distribution

VARIABLES = (
    *('RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'TORCHELASTIC_RUN_ID'),
    *('SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'),
)


@pytest.fixture
def configure(monkeypatch):
    """Configure a run on a machine with some GPUs and variables."""

    def configure(launcher, gpus=2, **variables):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpus > 0)
        configure_distribution(Config(dict(launcher=launcher, model=dict())))

    return configure


@pytest.mark.parametrize(
    ('launcher', 'expected'),
    [
        ('pytorch', 'finds no RANK in the environment; start the run through torchrun'),
        ('slurm', 'finds no SLURM_PROCID in the environment; start the run through srun'),
        ('mpi', 'finds no OMPI_COMM_WORLD_RANK in the environment; start the run through mpirun'),
    ],
)
def test_not_started_by_the_launcher(configure, launcher, expected):
    with pytest.raises(UserError, match=f'--launcher {launcher} {expected}'):
        configure(launcher)


def test_torchrun_without_launcher(configure):
    torchrun = dict(RANK='0', LOCAL_WORLD_SIZE='2', WORLD_SIZE='2', TORCHELASTIC_RUN_ID='none')
    with pytest.raises(UserError, match=r'torchrun started 2 processes, .* alone; add --launcher pytorch'):
        configure('none', **torchrun)
    configure('pytorch', **torchrun)
    configure('none', **torchrun | dict(WORLD_SIZE='1'))
    # One process of many that Slurm started may well be a run of its own.
    configure('none', WORLD_SIZE='4', SLURM_PROCID='1')


def test_more_processes_than_gpus(configure):
    torchrun = dict(RANK='0', LOCAL_WORLD_SIZE='3', WORLD_SIZE='6', TORCHELASTIC_RUN_ID='none')
    with pytest.raises(UserError, match='3 processes were started, and 2 GPUs are visible; start one'):
        configure('pytorch', **torchrun)
    configure('pytorch', gpus=3, **torchrun)
    configure('pytorch', gpus=0, **torchrun)  # on CPUs
