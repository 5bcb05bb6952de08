"""tools/dev/setup_env.py: what it says if a machine will not do, and what it leaves if it is killed."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import setup_env

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'tools/dev/setup_env.py'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder without an environment, which the module takes for its own."""
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    (tmp_path / 'tools/dev').mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / 'tools/dev')
    monkeypatch.setattr(setup_env, 'ROOT', tmp_path)
    monkeypatch.setattr(setup_env, 'PYTHON', tmp_path / '.venv/bin/python')
    monkeypatch.setattr(setup_env, 'LOGS', tmp_path / '.venv/setup-logs')
    return tmp_path


def run_script(project, python=sys.executable, **variables):
    command = [python, project / 'tools/dev/setup_env.py', 'environment']
    environment = {'PATH': os.environ['PATH'], **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def assert_refused(result, *words):
    assert result.returncode == 2, result
    (line,) = result.stderr.splitlines()
    assert line.startswith('setup: ') and all(word in line for word in words), line


def test_old_python_is_named(project):
    found = [*Path.home().glob('.pyenv/versions/3.[6-9].*/bin/python')]
    found += [path for version in range(6, 10) if (path := shutil.which(f'python3.{version}'))]
    old = [python for python in found if subprocess.run([python, '-c', '']).returncode == 0]
    if not old:
        pytest.skip('no Python older than 3.10 here')
    assert_refused(run_script(project, old[0]), 'Python 3.10 to 3.13 is needed', 'make PYTHON=')


def test_missing_compiler_is_named(project):
    assert_refused(run_script(project, PATH='/nonexistent'), 'no C++ compiler', 'CXX')
    assert_refused(run_script(project, CXX='no-such-compiler'), 'no C++ compiler')


def test_what_the_machine_lacks_is_named(project, monkeypatch):
    setup_env.check_machine()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(9, 8, 2**30))
        with pytest.raises(RuntimeError, match=r'8 GiB of disk are needed, 1\.0 are free'):
            setup_env.check_machine()
    with monkeypatch.context() as patch:
        patch.setattr('sysconfig.get_path', lambda name: '/nonexistent')
        with pytest.raises(RuntimeError, match=r'Python\.h is missing'):
            setup_env.check_machine()
    monkeypatch.setattr(setup_env, 'find_spec', lambda name: None)
    with pytest.raises(RuntimeError, match='no venv; install it'):
        setup_env.check_machine()


@pytest.mark.parametrize(
    ('printed', 'words'),
    [
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError: Connection refused'\n"
            'ERROR: No matching distribution found for torch==2.13.0\n',
            ['index cannot be reached', 'pip config list'],
        ),
        (
            'ERROR: No matching distribution found for torch==2.13.0\n',
            ['index has no torch==2.13.0 for this'],
        ),
        (
            'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n',
            ['check your package'],
        ),
        ("OSError: [Errno 28] No space left on device: '/x'\n", ['the disk is full']),
        ("PermissionError: [Errno 13] Permission denied: '/x'\n", ['cannot be written']),
        ('[1/2] c++ a.cpp\na.cpp:1: error: x is not declared\ncompilation ended\n', ['a.cpp:1: error: x']),
        ('error: /usr/bin/nvcc is of CUDA 11.8, but 12.4 or newer is needed; update\n', ['12.4 or newer']),
        ('', ['step failed']),
    ],
)
def test_a_failed_step_is_one_line(project, printed, words):
    (project / 'printed').write_text(printed)
    with pytest.raises(RuntimeError) as failure:
        setup_env.run('step', 'sh', '-c', 'cat printed; exit 3')
    line = str(failure.value)
    assert '\n' not in line and line.startswith('step failed: ') and str(setup_env.LOGS) in line
    assert all(word in line for word in words), line


def test_a_step_returns_its_last_line(project, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', '/elsewhere')
    assert setup_env.run('step', 'sh', '-c', 'echo first; echo "[$PYTHONPATH]"; echo') == '[]'


def test_a_killed_set_up_leaves_no_process(project):
    command = "import setup_env; setup_env.run('step', 'sh', '-c', 'sh -c \"echo ready; sleep 60\" & wait')"
    process = subprocess.Popen([sys.executable, '-c', command], cwd=project / 'tools/dev')
    log = project / '.venv/setup-logs/step.log'
    deadline = time.monotonic() + 30
    while not (log.exists() and 'ready' in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    assert len(processes_in(project)) >= 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while processes_in(project) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_in(project)


def processes_in(folder):
    """The processes whose working directory is this folder."""
    found = []
    for link in Path('/proc').glob('[0-9]*/cwd'):
        try:
            found += [link.parent.name] * (link.readlink() == folder)
        except OSError:
            continue
    return found


@pytest.fixture
def steps(project, monkeypatch):
    """What the set-up of an environment runs, without running it."""
    ran = []

    def run(step, *command):
        ran.append((step, command))
        return '/cache/mmcv.whl'

    monkeypatch.setattr(setup_env, 'run', run)
    return ran


def test_what_an_interrupted_set_up_left_is_made_anew(project, steps):
    site = project / '.venv/lib/python3.99/site-packages'
    setup_env.make_environment()
    pip = project / '.venv/bin/pip'
    assert pip.exists() and not site.exists()
    assert [step for step, _ in steps][-2:] == ['mmcv-install', 'imports']
    for name in ('whole', 'half'):
        (site / f'{name}-1.dist-info').mkdir(parents=True)
    (site / 'whole-1.dist-info/RECORD').touch()
    setup_env.make_environment()
    assert [path.name for path in site.iterdir()] == ['whole-1.dist-info']
    pip.write_text('#!/moved/from/elsewhere/.venv/bin/python')
    setup_env.make_environment()
    assert not site.exists() and str(project) in pip.read_text()


def test_two_set_ups_wait_for_each_other(project):
    lock = os.open(project, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    command = [sys.executable, project / 'tools/dev/setup_env.py', 'environment']
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(command, timeout=3, capture_output=True)
    assert not (project / '.venv').exists()
    os.close(lock)


def test_lock_is_exact_and_names_no_index():
    lock = (ROOT / 'requirements/lock.txt').read_text()
    wanted = (ROOT / 'requirements/environment.in').read_text()
    for name in re.findall(r'^[\w-]+', wanted, re.MULTILINE):
        assert re.search(rf'^{name}==[\w.]+ ', lock, re.MULTILINE), f'{name}: run `make lock`'
    assert not re.search(r'^opencv-python=|^onedl-mmcv=|^torch=', lock, re.MULTILINE)
    entries = re.split(r'\n(?=[a-z])', lock)[1:]
    assert all('--hash=sha256:' in entry for entry in entries)
    for path in (ROOT / 'requirements').iterdir():
        assert '://' not in path.read_text(), path
