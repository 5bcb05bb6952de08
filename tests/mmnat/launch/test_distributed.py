"""Distributed runs that were not started as they should be."""

import os

import pytest

pytest.importorskip('mmengine')

import torch
from mmengine.config import Config

from mmnat.errors import UserError, rank
from mmnat.launch.distributed import configure_distribution, name_processes, time_limit
from mmnat.launch.slurm import first_node, process_group_variables

VARIABLES = (
    *('RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'TORCHELASTIC_RUN_ID'),
    *('SLURM_PROCID', 'SLURM_STEP_ID', 'OMPI_COMM_WORLD_RANK', 'MASTER_PORT'),
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
        ('slurm', 'finds no SLURM_STEP_ID in the environment; start the run through srun'),
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


def test_batch_script_without_srun(configure):
    """It has the number of a process, and would wait for the other tasks."""
    with pytest.raises(UserError, match='start the run through srun, tools'):
        configure('slurm', SLURM_PROCID='0', SLURM_NTASKS='2')


TASK = dict(
    SLURM_PROCID='3',
    SLURM_LOCALID='1',
    SLURM_STEP_NUM_TASKS='4',
    SLURM_STEP_NUM_NODES='2',
    SLURM_STEP_NODELIST='gpu[07-08]',
    SLURM_JOB_ID='1234',
    SLURM_STEP_ID='0',
)


@pytest.fixture
def task(monkeypatch):
    """The environment of the last of four tasks on two nodes."""
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)


def test_slurm_becomes_torchrun(task, monkeypatch):
    name_processes('slurm')
    assert os.environ['RANK'] == '3' and rank() == 3
    assert os.environ['WORLD_SIZE'] == '4' and os.environ['LOCAL_RANK'] == '1'
    assert os.environ['MASTER_ADDR'] == 'gpu07'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    env_cfg = dict(dist_cfg=dict(backend='nccl', port=4321))
    cfg = Config(dict(launcher='slurm', model=dict(), env_cfg=env_cfg))
    configure_distribution(cfg)
    assert cfg.launcher == 'pytorch' and cfg.env_cfg.dist_cfg == dict(backend='gloo')
    assert os.environ['MASTER_PORT'] == '4321'


def test_tasks_without_launcher_are_runs_of_their_own(task):
    name_processes('none')
    assert rank() == 0, 'its errors would not be printed, and its work directory not be held'


def test_time_limit():
    assert time_limit(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=90))))).total_seconds() == 90
    assert time_limit(Config(dict(env_cfg=dict(dist_cfg=dict(backend='nccl'))))) is None
    assert time_limit(Config(dict())) is None


@pytest.mark.parametrize(('devices', 'expected'), [(0, '1'), (1, '0'), (2, '1'), (8, '1')])
def test_gpu_of_a_task(task, monkeypatch, devices, expected):
    """With --gpus-per-task=1 each task sees one GPU, its own."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: devices)
    assert process_group_variables(TASK)['LOCAL_RANK'] == expected


def test_more_tasks_than_gpus(task, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    with pytest.raises(UserError, match='2 GPUs are visible; set GPUS_PER_NODE'):
        process_group_variables(TASK | dict(SLURM_LOCALID='2'))


@pytest.mark.parametrize(
    ('nodes', 'first'),
    [
        ('vm', 'vm'),
        ('gpu07,login', 'gpu07'),
        ('gpu[07-09,12],login', 'gpu07'),
        ('gpu-a[3,5]', 'gpu-a3'),
        ('rack[1-2]n[10-12],x', 'rack1n10'),
        ('c[001-128]-ib', 'c001-ib'),
        ('node1.cluster.org', 'node1.cluster.org'),
    ],
)
def test_first_node(nodes, first):
    assert first_node(nodes) == first


def test_address_and_port(task):
    one_node = process_group_variables(TASK | dict(SLURM_STEP_NUM_NODES='1'))
    assert one_node['MASTER_ADDR'] == '127.0.0.1'
    ports = [
        int(
            process_group_variables(TASK | dict(SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step)))[
                'MASTER_PORT'
            ]
        )
        for job in range(50, 90)
        for step in range(4)
    ]
    assert len(set(ports)) == len(ports) and min(ports) > 1024 and max(ports) < 32768
    chosen = dict(MASTER_ADDR='10.0.0.1', MASTER_PORT='29500')
    assert chosen.items() <= process_group_variables(TASK | chosen).items()
