"""A training that is interrupted and resumed ends as one that is not: same weights, bit for bit."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')

from forked_commands import ForkedCommands
from tiny_training import DETECTOR, draw_data

from mmnat.checkpoints.reading import read_checkpoint

TOOLS = Path(__file__).resolve().parents[3] / 'tools'
EPOCHS, ITERATIONS = 3, 8
COMMON = """
model['backbone']['drop_path_rate'] = 0.3
pipeline.insert(3, dict(type='RandomFlip', prob=0.5))
train_dataloader.update(batch_size=1, num_workers=WORKERS, persistent_workers=False)
train_dataloader['sampler'].update(shuffle=True)
val_dataloader, val_evaluator, val_cfg = test_dataloader, test_evaluator, dict(type='ValLoop')
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=7)]
randomness = dict(seed=3)
"""
LOOPS = {
    'epochs': f"""
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs={EPOCHS}, val_interval=1)
default_hooks['checkpoint'].update(by_epoch=True, interval=1, max_keep_ckpts=1)
""",
    'iterations': f"""
train_dataloader['sampler'] = dict(type='InfiniteSampler', shuffle=True)
train_cfg = dict(type='IterBasedTrainLoop', max_iters={ITERATIONS}, val_interval=3)
default_hooks['checkpoint'].update(by_epoch=False, interval=2, max_keep_ckpts=1)
""",
}
LAST = {'epochs': f'epoch_{EPOCHS}.pth', 'iterations': f'iter_{ITERATIONS}.pth'}


class Trainings:
    """A server of commands, and a config."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / 'log.txt'
        draw_data(folder / 'data')
        self._commands = ForkedCommands('mmdet')

    def config(self, loop: str, workers: int = 0) -> Path:
        path = self.folder / f'{loop}{workers}.py'
        text = DETECTOR + COMMON.replace('WORKERS', str(workers)) + LOOPS[loop]
        path.write_text(text.replace('DATA', str(self.folder / 'data')))
        return path

    def run(
        self, config: Path, work_dir: Path, number: int = 0, when: float | str = 0
    ) -> tuple[int, float]:
        arguments = ['train', config, '--work-dir', work_dir]
        arguments += ['--resume'] * (work_dir / 'last_checkpoint').exists()
        return self._commands.run(arguments, self.folder, self.log, number, when)

    def close(self) -> None:
        self._commands.close()


@pytest.fixture(scope='module')
def trainings(tmp_path_factory):
    trainings = Trainings(tmp_path_factory.mktemp('interruptions'))
    yield trainings
    trainings.close()


@pytest.fixture(scope='module')
def whole(trainings):
    """Runs without interruption: their weights, and how long they take."""
    known = {}

    def run(loop, workers=0):
        if (loop, workers) not in known:
            work_dir = trainings.folder / f'whole_{loop}{workers}'
            code, seconds = trainings.run(trainings.config(loop, workers), work_dir)
            assert code == 0, trainings.log.read_text()[-3000:]
            known[loop, workers] = weights(work_dir / LAST[loop]), seconds
        return known[loop, workers]

    return run


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)['state_dict']


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def finish(trainings, config, work_dir, loop):
    code, _ = trainings.run(config, work_dir)
    assert code == 0, trainings.log.read_text()[-3000:]
    return weights(work_dir / LAST[loop])


@pytest.mark.parametrize(
    ('loop', 'workers', 'moments'),
    [
        ('epochs', 0, ('Iter(train) [ 5/12]',)),  # in the middle of an epoch
        # Twice in the same epoch, and in a validation.
        pytest.param(
            'epochs', 0, ('Iter(train) [ 5/12]', 'Iter(train) [ 7/12]', 'Iter(val)'), marks=pytest.mark.long
        ),
        pytest.param('epochs', 2, ('Iter(train) [ 6/12]',), marks=pytest.mark.long),
        pytest.param('iterations', 0, ('Iter(train) [3/8]', 'Iter(val)'), marks=pytest.mark.long),
    ],
)
def test_sigterm_saves_and_resumes(trainings, whole, tmp_path, loop, workers, moments):
    wanted, _ = whole(loop, workers)
    config = trainings.config(loop, workers)
    for moment in moments:
        code, _ = trainings.run(config, tmp_path, signal.SIGTERM, moment)
        assert code == 143, trainings.log.read_text()[-3000:]
        assert Path((tmp_path / 'last_checkpoint').read_text()) == tmp_path / 'interrupted.pth'
    assert not differing(finish(trainings, config, tmp_path, loop), wanted)
    assert not (tmp_path / 'interrupted.pth').exists()


def interrupt_often(trainings, whole, work_dir, loop, times, source):
    """Interrupt trainings at random moments; each time the newest checkpoint loads, and none is lost."""
    wanted, seconds = whole(loop)
    config = trainings.config(loop)
    done = reached = 0
    ended = {}
    for _ in range(times):
        number = source.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        code, _ = trainings.run(config, work_dir, number, source.uniform(0.2, 1.1) * seconds)
        ended[signal.Signals(number).name, code] = ended.get((signal.Signals(number).name, code), 0) + 1
        assert code in (0, -number, 128 + number), trainings.log.read_text()[-3000:]
        last = work_dir / 'last_checkpoint'
        if last.exists():
            iterations = read_checkpoint(last.read_text())['meta']['iter']
            assert iterations >= reached, 'a checkpoint was lost'
            reached = iterations
        if code == 0:
            assert not differing(weights(work_dir / LAST[loop]), wanted)
            done += 1
            reached = 0
            for path in sorted(work_dir.rglob('*'), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    assert not differing(finish(trainings, config, work_dir, loop), wanted)
    print(
        f'{times} interruptions of {loop}: {ended}; {done + 1} trainings ended, all with the same weights'
    )


@pytest.mark.long
@pytest.mark.parametrize('loop', LOOPS)
def test_many_interruptions(trainings, whole, tmp_path, loop):
    interrupt_often(trainings, whole, tmp_path, loop, 50, random.Random(1))


@pytest.mark.long
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='needs gloo')
def test_processes_of_a_distributed_run_stop_together(trainings, tmp_path):
    config = trainings.config('epochs', workers=2)
    environment = os.environ | dict(OMP_NUM_THREADS='1', PORT='29637')
    environment['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{environment["PATH"]}'
    command = ['bash', str(TOOLS / 'dist_train.sh'), str(config), '2', '--work-dir', str(tmp_path / 'work')]
    log = tmp_path / 'log'
    with log.open('w') as file:
        process = subprocess.Popen(
            [*command, '--cfg-options', 'train_cfg.max_epochs=100'],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    while not re.search(r'train\) \[ *3/', log.read_text()):
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # as Slurm does: all processes, data workers, too
    process.wait(60)
    text = log.read_text()
    assert text.count('terminated; saved') == 1, text[-3000:]
    stopped = read_checkpoint(tmp_path / 'work/interrupted.pth')['meta']['iter']
    options = ['--resume', '--cfg-options', f'train_cfg.max_epochs={stopped // 2 + 1}']
    run = subprocess.run([*command, *options], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert re.search(rf'train\) \[ *{stopped + 1}/', run.stdout + run.stderr)
