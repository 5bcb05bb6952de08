"""A training that is interrupted and resumed ends as one that is not: same weights, bit for bit."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')

from forked_commands import ForkedCommands
from small_disk import NEEDS_MOUNT, Disk
from tiny_training import DETECTOR, draw_data

from mmnat.checkpoints.reading import read_checkpoint

TOOLS = Path(__file__).resolve().parents[3] / 'tools'
pytestmark = pytest.mark.long
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
# What a training may have besides: checkpoints hold more then.
MORE = {
    'averaged': "custom_hooks = [dict(type='EMAHook', momentum=0.1)]",
    'averaged with buffers': "custom_hooks = [dict(type='EMAHook', update_buffers=True, begin_iter=3)]",
    'accumulated': "optim_wrapper.update(accumulative_counts=3, optimizer=dict(type='AdamW', lr=1e-3))",
    'recomputed, in bfloat16': (
        "model['backbone']['with_cp'] = True\noptim_wrapper['type'] = 'AmpOptimWrapper'"
    ),
}
MORE['all'] = '\n'.join(MORE.values())
LAST = {'epochs': f'epoch_{EPOCHS}.pth', 'iterations': f'iter_{ITERATIONS}.pth'}


class Trainings:
    """A server of commands, and a config."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / 'log.txt'
        self.log.touch()
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

    def run_and_read(self, config: Path, work_dir: Path) -> tuple[int, str]:
        """The exit code, and what the training printed."""
        begin = self.log.stat().st_size
        code, _ = self.run(config, work_dir)
        return code, self.log.read_bytes()[begin:].decode()

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
        # In the middle of an epoch, twice in the same, and in a validation.
        ('epochs', 0, ('Iter(train) [ 5/12]', 'Iter(train) [ 7/12]', 'Iter(val)')),
        ('epochs', 2, ('Iter(train) [ 6/12]',)),
        ('iterations', 0, ('Iter(train) [3/8]', 'Iter(val)')),
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


@pytest.mark.parametrize('loop', LOOPS)
def test_many_interruptions(trainings, whole, tmp_path, loop):
    interrupt_often(trainings, whole, tmp_path, loop, 50, random.Random(1))


@pytest.mark.parametrize('name', ['averaged', 'averaged with buffers', 'accumulated', 'all'])
def test_what_checkpoints_hold_besides(trainings, tmp_path, name):
    """Ended in a validation, which is saved; killed after a checkpoint inside of an accumulation."""
    config = tmp_path / 'config.py'
    config.write_text(f'{trainings.config("iterations").read_text()}\n{MORE[name]}\n')
    wanted = finish(trainings, config, tmp_path / 'whole', 'iterations')
    averaged = read_checkpoint(tmp_path / 'whole' / LAST['iterations']).get('ema_state_dict', {})
    assert bool(averaged) == (name == 'all' or name.startswith('averaged'))
    for number, moment in ((signal.SIGTERM, 'Iter(val) [2/4]'), (signal.SIGKILL, 'Iter(train) [5/8]')):
        work_dir = tmp_path / signal.Signals(number).name
        code, _ = trainings.run(config, work_dir, number, moment)
        assert code in (128 + number, -number), trainings.log.read_text()[-3000:]
        assert not differing(finish(trainings, config, work_dir, 'iterations'), wanted)
        again = read_checkpoint(work_dir / LAST['iterations']).get('ema_state_dict', {})
        assert not differing(again, averaged)


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


@NEEDS_MOUNT
def test_a_disk_without_room_for_the_next_checkpoint(trainings, whole, tmp_path):
    wanted, _ = whole('epochs')
    config = trainings.config('epochs')
    size = (trainings.folder / 'whole_epochs0' / LAST['epochs']).stat().st_size
    disk = Disk(tmp_path / 'disk', size * 3 // 2)
    try:
        work_dir = disk.folder / 'work'
        code, printed = trainings.run_and_read(config, work_dir)
        message = (
            f'error: {work_dir}/epoch_2.pth cannot be written: No space left on device; free some space'
        )
        assert code == 2 and printed.endswith(f'{message}\n') and 'Traceback' not in printed
        assert read_checkpoint(work_dir / 'epoch_1.pth')['meta']['epoch'] == 1
        assert [path.name for path in work_dir.iterdir() if path.suffix == '.pth'] == ['epoch_1.pth']
        assert not [path for path in work_dir.iterdir() if path.name.startswith('.tmp')]
        assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'epoch_1.pth')
        disk.remount('size=64m')
        assert not differing(finish(trainings, config, work_dir, 'epochs'), wanted)
    finally:
        disk.close()


@NEEDS_MOUNT
@pytest.mark.parametrize('visualizer', ["vis_backends=[dict(type='LocalVisBackend')]", 'vis_backends=[]'])
def test_a_disk_without_room_for_the_log(trainings, tmp_path, visualizer):
    """With the scalars of the visualizer, and with the log alone."""
    config = tmp_path / 'config.py'
    text = trainings.config('epochs').read_text()
    options = (
        f'visualizer = dict(type="DetLocalVisualizer", {visualizer})\ntrain_cfg.update(max_epochs=20)\n'
    )
    config.write_text(f"{text}\n{options}default_hooks['checkpoint'].update(interval=100)\n")
    disk = Disk(tmp_path / 'disk', '32m')
    try:
        ended = []
        begin = trainings.log.stat().st_size
        run = threading.Thread(
            target=lambda: ended.append(trainings.run_and_read(config, disk.folder / 'work')), daemon=True
        )
        run.start()
        deadline = time.monotonic() + 60
        while b'Iter(train)' not in trainings.log.read_bytes()[begin:] and time.monotonic() < deadline:
            time.sleep(0.02)
        disk.fill()
        run.join(120)
        ((code, printed),) = ended
        assert code == 2 and 'Traceback' not in printed and 'Logging error' not in printed, printed[-3000:]
        assert re.search(r'\nerror: (\S+: )?No space left on device; free space there; .*\n$', printed)
    finally:
        disk.close()
