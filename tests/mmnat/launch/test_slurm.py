"""Runs under a real Slurm: start, evaluation, requeue, signals, and tasks that are killed."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from slurm_cluster import Cluster, what_is_missing
from tiny_training import SEGMENTOR, draw_data

ROOT = Path(__file__).resolve().parents[3]
ITERATIONS = 60
SETTINGS = f"""
train_cfg = dict(type='IterBasedTrainLoop', max_iters={ITERATIONS})
default_hooks['checkpoint'].update(interval=5, max_keep_ckpts=1)
randomness = dict(seed=0)
"""
pytestmark = [
    pytest.mark.long,
    pytest.mark.alone,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing()),
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='needs gloo'),
    pytest.mark.skipif(
        torch.cuda.is_available(), reason='the cluster announces GPUs that do not exist, for runs on CPUs'
    ),
]


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp('slurm')) as cluster:
        cluster.environment |= dict(GPUS='2', CPUS_PER_TASK='1')
        yield cluster


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where jobs run: a config and its data."""
    monkeypatch.chdir(tmp_path)
    draw_data(tmp_path / 'data')
    Path('detector.py').write_text(SEGMENTOR.replace('DATA', 'data') + SETTINGS)
    return tmp_path


def start(cluster, script, *arguments, **variables):
    """Start a script of tools/; its output goes to the file log."""
    with open('log', 'w') as log:
        return subprocess.Popen(
            ['bash', str(ROOT / 'tools' / script), 'gpu', 'name', *arguments],
            env=cluster.environment | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_for(is_so, cluster, log, seconds=120):
    deadline = time.monotonic() + seconds
    while not is_so():
        output = Path(log).read_text()[-3000:] if Path(log).exists() else ''
        assert time.monotonic() < deadline, output + cluster.log()
        time.sleep(0.1)


def finish(process, seconds=120):
    """Its exit code and output."""
    try:
        process.wait(seconds)
    finally:
        process.kill()
    return process.returncode, Path('log').read_text()


def iterations(log):
    return [int(number) for number in re.findall(r'Iter\(train\) \[ *(\d+)/', log)]


def test_train_and_test(cluster, folder):
    with socket.socket() as other:  # a run of another user, at the port that torch takes by itself
        other.bind(('', 0))
        other.listen()
        options = ('--cfg-options', 'train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=1')
        code, log = finish(start(cluster, 'slurm_train.sh', 'detector.py', 'work', *options))
    assert code == 0, log[-3000:]
    assert iterations(log) == [1, 2], 'each line comes once'
    assert Path('work/last_checkpoint').read_text().endswith('iter_2.pth')
    assert len(list(Path('work').glob('2*/'))) == 1, 'the tasks share a folder'
    code, log = finish(
        start(cluster, 'slurm_test.sh', 'detector.py', 'work/iter_2.pth', SRUN_ARGS='--gres=none')
    )
    assert code == 0, log[-3000:]
    assert log.count('mIoU:') == 1 and re.search(r'Iter\(test\) \[2/2\]', log), 'of 4 images each takes 2'


def test_mistakes_are_told_once(cluster, folder):
    code, log = finish(start(cluster, 'slurm_train.sh', 'detector.py', 'work', '--resume'))
    assert code == 2
    assert log.count('error: --resume finds no checkpoint in work;') == 1, log
    assert 'Traceback' not in log and not Path('work').exists()


def test_port_in_use(cluster, folder):
    with socket.socket() as other:
        other.bind(('', 0))
        other.listen()
        port = str(other.getsockname()[1])
        code, log = finish(start(cluster, 'slurm_train.sh', 'detector.py', 'work', MASTER_PORT=port))
    assert code != 0
    assert f'error: port {port} is in use' in log, log[-3000:]


def test_batch_job_of_the_documentation_goes_on_when_requeued(cluster, folder):
    """It requeues itself before the time limit, and others requeue it."""
    page = (ROOT / 'docs/clusters.md').read_text(encoding='utf-8')
    (script,) = re.findall(r'^```bash title="train.sbatch"\n(.*?)^```$', page, re.M | re.S)
    script = script.replace('GPUS=16 GPUS_PER_NODE=8', 'GPUS=2 GPUS_PER_NODE=2')
    Path('train.sbatch').write_text(script.replace('tools/', f'{ROOT}/tools/'))
    smaller = ('--nodes=1', '--ntasks-per-node=2', '--gres=gpu:2', '--cpus-per-task=1', '--time=10')
    job = cluster.run('sbatch', '--parsable', *smaller, 'train.sbatch').stdout.strip()
    log = Path(f'detector-{job}.log')
    try:
        # What --signal=TERM@300 does, and what preemption does.
        for number, command in enumerate((('scancel', '--signal=TERM'), ('scontrol', 'requeue'))):
            wait_for(lambda count=number: log.exists() and len(starts(log)) > count, cluster, log)
            answer = cluster.run(*command, job)
            assert answer.returncode == 0, answer.stderr
            wait_for(lambda count=number: saved(log) > count, cluster, log)
        wait_for(lambda: cluster.state(job) == 'COMPLETED', cluster, log)
    finally:
        cluster.run('scancel', job)
    text = log.read_text()
    assert text.count(f'terminated; saved {folder}/work_dirs/detector/interrupted.pth') == 2
    assert iterations(text) == list(range(1, ITERATIONS + 1)), 'each iteration is trained once'
    assert not Path('work_dirs/detector/interrupted.pth').exists()


def saved(log):
    """How often the job has saved because it was told to stop."""
    return log.read_text().count('terminated; saved')


def starts(log):
    """The first iterations of the job's starts."""
    return re.findall(r'before_run:.*?Iter\(train\) \[ *(\d+)/', log.read_text(), re.S)


def test_a_killed_task_ends_the_job(cluster, folder):
    process = start(cluster, 'slurm_train.sh', 'detector.py', 'work')
    wait_for(lambda: 'Iter(train) [ 6/' in Path('log').read_text(), cluster, 'log')
    (task,) = cluster.processes('SLURM_PROCID=1')
    os.kill(task, signal.SIGKILL)
    begin = time.monotonic()
    code, log = finish(process)
    # The highest of the tasks: one is killed, and Slurm sends SIGTERM to the other.
    assert code in (128 + signal.SIGKILL, 128 + signal.SIGTERM), log[-3000:]
    assert 'error: another process of the run has ended' in log or 'task 0: Terminated' in log
    assert time.monotonic() - begin < 20
    assert not cluster.processes('SLURM_STEP_NUM_TASKS=2')
    assert Path('work/iter_5.pth').exists()
    code, log = finish(start(cluster, 'slurm_train.sh', 'detector.py', 'work', '--resume'))
    assert code == 0, log[-3000:]
    assert iterations(log)[-1] == ITERATIONS and iterations(log)[0] > 5
