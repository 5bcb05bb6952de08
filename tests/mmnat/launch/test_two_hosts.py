"""torchrun over two machines: training, a machine that crashes, resuming, and files that are not shared."""

import os
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from tiny_training import SEGMENTOR, draw_data
from two_hosts import ADDRESSES, TwoHosts, what_is_missing

ROOT = Path(__file__).resolve().parents[3]
ITERATIONS = 40
SETTINGS = f"""
train_cfg = dict(type='IterBasedTrainLoop', max_iters={ITERATIONS})
default_hooks['checkpoint'].update(interval=5, max_keep_ckpts=2)
env_cfg = dict(dist_cfg=dict(backend='nccl', timeout=20))
randomness = dict(seed=0)
"""
pytestmark = [
    pytest.mark.long,
    pytest.mark.alone,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing()),
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='needs gloo'),
    pytest.mark.skipif(torch.cuda.is_available(), reason='the two machines would share the GPUs'),
]


@pytest.fixture(scope='module')
def hosts():
    with TwoHosts() as hosts:
        yield hosts


@pytest.fixture
def folders(tmp_path):
    """One for each machine, with a config and its data."""
    folders = [tmp_path / 'host0', tmp_path / 'host1']
    for folder in folders:
        draw_data(folder / 'data')
        (folder / 'segmentor.py').write_text(SEGMENTOR.replace('DATA', 'data') + SETTINGS)
    return folders


def start(hosts, folders, *options):
    """Start the same training on both machines, each in its folder."""
    environment = os.environ | dict(
        NNODES='2', MASTER_ADDR=ADDRESSES[0], PORT='29641', GLOO_SOCKET_IFNAME='eth0', OMP_NUM_THREADS='1'
    )
    environment['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{environment["PATH"]}'
    script = str(ROOT / 'tools/dist_train.sh')
    return [
        hosts.start(
            number,
            ['bash', script, 'segmentor.py', '1', '--work-dir', 'work', *options],
            folder / f'log{number}',
            cwd=folder,
            env=environment | dict(NODE_RANK=str(number)),
        )
        for number, folder in enumerate(folders)
    ]


def wait_for_iteration(number, process, log):
    deadline = time.monotonic() + 60
    while number not in iterations(log):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)


def iterations(log):
    return [int(number) for number in re.findall(r'Iter\(train\) \[ *(\d+)/', log.read_text())]


def errors(log):
    return [line for line in log.read_text().splitlines() if line.startswith('error: ')]


def test_crash_and_resume(hosts, folders):
    shared = folders[:1] * 2
    processes = start(hosts, shared)
    logs = [folder / f'log{number}' for number, folder in enumerate(shared)]
    wait_for_iteration(7, processes[0], logs[0])
    hosts.kill(1)
    begin = time.monotonic()
    assert processes[0].wait(30) != 0
    print(f'ended {time.monotonic() - begin:.1f} s after the crash')
    (message,) = errors(logs[0])
    assert 'another process of the run has ended or cannot be reached' in message
    processes = start(hosts, shared, '--resume')
    for process, log in zip(processes, logs, strict=True):
        assert process.wait(60) == 0, log.read_text()[-3000:]
    assert iterations(logs[0])[0] > 5 and iterations(logs[0])[-1] == ITERATIONS
    assert iterations(logs[1]) == [], 'only the first process logs'
    assert (shared[0] / f'work/iter_{ITERATIONS}.pth').exists()

    without_a_shared_work_dir(hosts, folders)


def without_a_shared_work_dir(hosts, folders):
    """The second machine has no checkpoint, then an older one."""
    logs = [folder / f'log{number}' for number, folder in enumerate(folders)]
    processes = start(hosts, folders, '--resume')
    assert all([process.wait(60) for process in processes])
    (message,) = errors(logs[0])
    expected = f'process 1 on {socket.gethostname()} cannot begin: --resume finds no checkpoint in work;'
    assert expected in message

    # An older checkpoint there: both would train, each with weights of its own.
    (folders[1] / 'work').mkdir(exist_ok=True)
    shutil.copy(folders[0] / f'work/iter_{ITERATIONS - 5}.pth', folders[1] / 'work')
    processes = start(hosts, folders, '--resume')
    assert all([process.wait(60) for process in processes])
    (message,) = errors(logs[0])
    assert 'the processes begin with different weights: 0 on' in message
    assert f'with iteration {ITERATIONS}, 1 on' in message
    assert f'with iteration {ITERATIONS - 5};' in message


def test_unplugged(hosts, folders):
    """Nobody tells the first machine that the other is gone; the time limit of the config ends the wait."""
    processes = start(hosts, folders)
    log = folders[0] / 'log0'
    wait_for_iteration(3, processes[0], log)
    hosts.unplug()
    assert processes[0].wait(60) != 0
    assert errors(log), log.read_text()[-3000:]
