"""Launchers on a machine that others use: how threads wait, and that no process outlives its parent."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from tiny_training import draw_data, write_configs

from mmnat.launch import threads

ROOT = Path(__file__).resolve().parents[3]
TOOLS = ROOT / 'tools'
pytestmark = pytest.mark.alone
SIGNALS = [
    signal.SIGKILL,
    *(pytest.param(number, marks=pytest.mark.long) for number in (signal.SIGINT, signal.SIGTERM)),
]


def test_threads_wait_as_the_user_says():
    for chosen in ({'GOMP_SPINCOUNT': '7'}, {'OMP_WAIT_POLICY': 'active'}):
        variables = dict(chosen)
        threads.wait_briefly(variables)
        assert variables == chosen
    variables = {}
    threads.wait_briefly(variables)
    assert variables == {'GOMP_SPINCOUNT': str(threads.SPIN_COUNT)}


@pytest.mark.parametrize('tool', ['train', 'test', 'predict'])
def test_launchers_say_how_to_wait_before_openmp_is_loaded(tool):
    program = f"""if True:
        import builtins, os
        load = builtins.__import__
        def watch(name, *rest, **more):
            if name == 'torch':
                print(os.environ.get('GOMP_SPINCOUNT'), flush=True)
                os._exit(0)
            return load(name, *rest, **more)
        builtins.__import__ = watch
        from mmnat.__main__ import main
        main([{tool!r}, '--help'])
    """
    environment = {k: v for k, v in os.environ.items() if k not in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')}
    run = subprocess.run([sys.executable, '-c', program], env=environment, capture_output=True, text=True)
    assert run.stdout.split() == [str(threads.SPIN_COUNT)], run.stderr


def test_threads_that_wait_sleep_soon():
    """What the launchers set reaches the OpenMP that torch brings."""
    show = 'import torch; torch.ones(1 << 20).sum()'
    environment = os.environ | {'GOMP_SPINCOUNT': '123', 'OMP_DISPLAY_ENV': 'verbose'}
    run = subprocess.run([sys.executable, '-c', show], env=environment, capture_output=True, text=True)
    if 'GOMP_SPINCOUNT' not in run.stderr:
        pytest.skip('this torch has another OpenMP')
    assert "GOMP_SPINCOUNT = '123'" in run.stderr


@pytest.fixture
def run_until(tmp_path):
    """Starts a command in a session of its own; returns it once as many processes are there as wanted."""
    token = uuid.uuid4().hex
    environment = os.environ | {'MMNAT_TEST': token, 'OMP_NUM_THREADS': '1', 'PORT': '29631'}
    environment['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{environment["PATH"]}'

    def processes():
        """The arguments of the processes that the command started, and of its own."""
        found = {}
        for folder in Path('/proc').glob('[0-9]*'):
            try:
                if token.encode() in (folder / 'environ').read_bytes():
                    found[int(folder.name)] = (folder / 'cmdline').read_bytes().replace(b'\0', b' ')
            except OSError:  # it is gone, or another user's
                continue
        return {pid: words.decode() for pid, words in found.items() if words}

    def run(command, is_ready):
        with (tmp_path / 'log').open('w') as log:
            process = subprocess.Popen(
                command, env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not is_ready((tmp_path / 'log').read_text(), processes()):
            assert process.poll() is None, (tmp_path / 'log').read_text()[-3000:]
            assert time.monotonic() < deadline, (tmp_path / 'log').read_text()[-3000:]
            time.sleep(0.1)
        return process

    run.processes = processes
    yield run
    for pid in processes():
        os.kill(pid, signal.SIGKILL)


def is_training(log, processes):
    """A training that goes on, with its two data workers."""
    return 'Iter(train)' in log and sum(' train ' in words for words in processes.values()) >= 3


def ends_within(processes, seconds):
    deadline = time.monotonic() + seconds
    while processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes()


def training_options(work_dir):
    """Of a training that would go on for hours, with data workers."""
    return [
        *('--work-dir', str(work_dir), '--cfg-options', 'train_cfg.max_iters=1000000'),
        *('train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True'),
        'default_hooks.checkpoint.interval=1000000',
    ]


@pytest.fixture
def config(tmp_path):
    draw_data(tmp_path / 'data')
    write_configs(tmp_path, tmp_path / 'data')
    return tmp_path / 'segmentor.py'


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux can end processes with their parent')
@pytest.mark.parametrize('number', SIGNALS)
def test_data_workers_end_with_the_training(run_until, config, tmp_path, number):
    command = [sys.executable, '-m', 'mmnat', 'train', config, *training_options(tmp_path / 'work')]
    process = run_until(command, is_training)
    workers = [pid for pid, words in run_until.processes().items() if ' train ' in words]
    for pid in workers if number != signal.SIGINT else ():  # then the training ends them
        if pid != process.pid:
            os.kill(pid, signal.SIGSTOP)  # it cannot find out for itself
    process.send_signal(number)
    if number == signal.SIGTERM:  # the first one waits for the end of the iteration, which does not come
        time.sleep(1)
        process.send_signal(number)
    process.wait(10)
    assert ends_within(run_until.processes, 10), run_until.processes()


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux can end processes with their parent')
@pytest.mark.parametrize('number', SIGNALS)
def test_trainings_end_with_what_started_them(run_until, config, tmp_path, number):
    """The demo, and torchrun."""
    program = "import sys; from mmnat.commands import demo; demo.run_command('train', *sys.argv[1:])"
    options = [str(config), *training_options(tmp_path / 'work')]
    commands = [[sys.executable, '-c', program, *options]]
    if number != signal.SIGINT and torch.distributed.is_gloo_available():
        commands.append(['bash', str(TOOLS / 'dist_train.sh'), options[0], '1', *options[1:]])
    for command in commands:
        process = run_until(command, is_training)
        process.send_signal(number)
        process.wait(40)
        assert ends_within(run_until.processes, 10), run_until.processes()


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='this system does not say who sent a signal')
def test_forked_processes_obey_sigterm_from_their_parent_only():
    """Data workers outlive the SIGTERM of a scheduler; a pool, and workers that are left at exit, do end."""
    program = """if True:
        import multiprocessing, subprocess, time
        from mmnat.launch.processes import end_together
        end_together()
        context = multiprocessing.get_context('fork')
        worker = context.Process(target=time.sleep, args=(600,), daemon=True)
        worker.start()
        time.sleep(0.3)
        subprocess.run(['sh', '-c', f'kill -TERM {worker.pid}'], check=True)
        worker.join(0.5)
        print('alive:', worker.is_alive(), flush=True)
        with context.Pool(2) as pool:
            print(pool.map(abs, [-1, 2]), flush=True)
        print('the pool has ended', flush=True)
    """
    run = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=30)
    assert run.stdout.splitlines() == ['alive: True', '[1, 2]', 'the pool has ended'], run.stderr
    assert run.returncode == 0 and not run.stderr
