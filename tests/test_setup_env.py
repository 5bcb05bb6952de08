"""tools/setup_env.py: what it says when a machine will not do, and what it builds anew when."""

import contextlib
import fcntl
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import setup_env

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / 'tools' / 'setup_env.py'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder without an environment, and an empty wheel cache."""
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    (tmp_path / 'tools').mkdir()
    shutil.copy(SCRIPT, tmp_path / 'tools')
    (tmp_path / 'natten_ops' / 'csrc').mkdir(parents=True)
    (tmp_path / 'natten_ops' / 'csrc' / 'a.cpp').write_text('int a;')
    (tmp_path / 'pyproject.toml').write_text('[project]')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path


def env_with(project, **state):
    """An Environment that takes this for what its probes found."""
    env = setup_env.Environment(project)
    unmet = {name: [] for name in setup_env.LISTS}
    env._state = {
        'unmet': unmet,
        'torch': '2.13.0+cpu',
        'project': True,
        'broken': [],
        'tag': 'cp311',
        'platform': 'linux-x86_64',
        **state,
    }
    env._mmcv = {'gpu': False, 'variant': 'cpu', 'error': ''}
    return env


def run_script(project, python=sys.executable, **variables):
    return subprocess.run(
        [python, str(project / 'tools' / 'setup_env.py')],
        env={'PATH': os.environ['PATH'], **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def old_python():
    """A Python older than 3.10, if one is around."""
    found = [*Path.home().glob('.pyenv/versions/3.[6-9].*/bin/python')]
    found += [Path(p) for v in range(6, 10) if (p := shutil.which(f'python3.{v}'))]
    for python in found:
        if subprocess.run([python, '-c', ''], capture_output=True).returncode == 0:
            return str(python)
    pytest.skip('no Python older than 3.10 here')


def assert_unfit(result, *words):
    assert result.returncode == 2, result
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith('setup: '), result.stderr
    for word in words:
        assert word in lines[0]


def test_old_python_is_named(project):
    assert_unfit(run_script(project, old_python()), 'Python 3.10 or newer', 'make PYTHON=')


def test_missing_compiler_is_named(project):
    assert_unfit(run_script(project, PATH='/nonexistent'), 'no C++ compiler', 'CXX')


def test_compiler_named_in_cxx_must_exist(project):
    assert_unfit(run_script(project, CXX='no-such-compiler'), 'no C++ compiler')


def test_unreachable_index_is_one_line(project, monkeypatch, capsys):
    env = env_with(project)
    env.log.parent.mkdir(parents=True)

    def pip(*arguments):
        env.log.write_text(
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError("
            "'<x>: Failed to establish a new connection: [Errno 111] Connection refused')': /t/\n"
            'ERROR: No matching distribution found for torch\n'
        )
        raise setup_env.StepError('code 1')

    monkeypatch.setattr(env, 'pip', pip)
    with pytest.raises(setup_env.Unfit, match=r'cannot be reached \(\[Errno 111\] Connection ref'):
        setup_env.probe_index(env)


def test_small_disk_is_named(project, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(9, 8, 1 << 30))
    env = setup_env.Environment(project)
    with pytest.raises(setup_env.Unfit, match=r'8 GiB .*, there are 1\.0'):
        setup_env.check_machine(env)


def test_missing_headers_are_named(project, monkeypatch):
    monkeypatch.setattr('sysconfig.get_path', lambda name: '/nonexistent')
    with pytest.raises(setup_env.Unfit, match=r'Python\.h is missing'):
        setup_env.check_machine(setup_env.Environment(project))


@pytest.mark.parametrize('module', ['venv', 'ensurepip'])
def test_missing_venv_is_named(project, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(setup_env.Unfit, match='no venv or ensurepip'):
        setup_env.check_machine(setup_env.Environment(project))


@pytest.mark.parametrize(
    ('output', 'problem'),
    [
        ('Available versions: 2.14.0, 2.13.0\n', ''),
        ('Available versions: 2.13.0+cu130\n', ''),
        ('WARNING: Retrying (x)\nAvailable versions: 2.13.0\n  INSTALLED: 2.12.0\n', ''),
        ('Available versions: 2.13.1, 2.12.0\n', 'the newest there is 2.13.1'),
        ('ERROR: No matching distribution found for torch\n', 'has no torch 2.13.0'),
        ('WARNING: Retrying (Retry(total=0)) ...\n', 'cannot be reached'),
        ('Could not fetch URL ...: There was a problem\n', 'cannot be reached'),
        ('WARNING: ... is not a trusted or secure host\n', 'cannot be reached'),
    ],
)
def test_index_problem(output, problem):
    answer = setup_env.index_problem(output, 'torch==2.13.0')
    assert problem in answer and bool(problem) == bool(answer)


def test_progress_counts_ninja_lines(capsys):
    progress = setup_env.Progress('[7/9]')
    progress.tty, progress.every = False, 0.0
    progress.phase('building mmcv (78 files)')
    progress.feed('  [12/78] c++ -MMD a.cpp')
    progress.feed('a.cpp:3: note: array[1/2] is no count')
    progress.tick()
    progress.done()
    assert capsys.readouterr().out.splitlines() == [
        '[7/9] building mmcv (78 files) ...',
        '      12/78 compiled, 0s',
        '[7/9] building mmcv (78 files): 0s',
    ]


def test_progress_overwrites_its_line_on_a_terminal(capsys):
    progress = setup_env.Progress('[3/9]')
    progress.tty = True
    progress.phase('installing torch')
    progress.began -= 75
    progress.tick()
    out = capsys.readouterr().out
    assert out == '\r\033[K[3/9] installing torch ...\r\033[K[3/9] installing torch ... 1m 15s'


def test_follow_copies_output_and_joins_split_lines():
    read, write = os.pipe()
    os.write(write, b'[3/9] c++ a')
    os.close(write)
    log, progress = io.BytesIO(), setup_env.Progress('')
    with os.fdopen(read, 'rb', buffering=0) as output:
        setup_env.follow(output, log, progress)
    assert log.getvalue() == b'[3/9] c++ a'


def test_relevant_lines_begin_at_the_first_error():
    text = '\n'.join([f'[{i}/90] c++' for i in range(60)] + ['a.cpp:1: error: x', 'more', ''])
    lines = setup_env.relevant_lines(text)
    assert len(lines) == 20 and lines[-2:] == ['a.cpp:1: error: x', 'more']
    early = setup_env.relevant_lines('\n'.join(['fatal: y'] + ['noise'] * 50))
    assert early == ['fatal: y'] + ['noise'] * 19


def test_wheel_key_tells_builds_apart(project):
    key = env_with(project).wheel_key()
    assert key.startswith('mmcv2.3.6-torch2.13.0+cpu-cp311-linux-x86_64-') and key.endswith('-cpu')
    for change in ({'torch': '2.13.0+cu130'}, {'tag': 'cp312'}, {'platform': 'linux-aarch64'}):
        assert env_with(project, **change).wheel_key() != key
    gpu = env_with(project)
    gpu._mmcv['variant'] = 'sm90'
    assert gpu.wheel_key() != key


def test_mmcv_is_stale_after_torch_changed(project):
    env = env_with(project)
    env.venv.mkdir()
    assert not setup_env.mmcv_holds(env)
    (env.venv / 'mmcv-key').write_text(env.wheel_key())
    assert setup_env.mmcv_holds(env)
    assert not setup_env.mmcv_holds(env_with(project, torch='2.14.0'))
    env._mmcv['error'] = 'undefined symbol'
    assert not setup_env.mmcv_holds(env)


def test_only_the_own_package_is_stale_after_its_source_changed(project):
    env = env_with(project)
    before = {step.name: env.stamp(step.inputs) for step in setup_env.STEPS if step.inputs}
    (project / 'natten_ops' / 'csrc' / 'a.cpp').write_text('int b;')
    after = {step.name: env.stamp(step.inputs) for step in setup_env.STEPS if step.inputs}
    assert {name for name in before if before[name] != after[name]} == {'project', 'imports'}
    (project / 'requirements' / 'constraints.txt').write_text('numpy==2.2.5')
    assert env.stamp(setup_env.files('libraries')) != after['libraries']


@pytest.mark.parametrize('variable', ['NATTEN_OPS_CUDA', 'TORCH_CUDA_ARCH_LIST', 'PATH'])
def test_only_the_own_package_is_stale_after_cuda_changed(project, monkeypatch, variable):
    nvcc = project / 'bin' / 'nvcc'
    nvcc.parent.mkdir()
    nvcc.write_text('#!/bin/sh')
    nvcc.chmod(0o755)
    env = env_with(project)
    before = {step.name: env.stamp(step.inputs) for step in setup_env.STEPS if step.inputs}
    monkeypatch.setenv(variable, f'{nvcc.parent}:{os.environ["PATH"]}' if variable == 'PATH' else '1')
    after = {step.name: env.stamp(step.inputs) for step in setup_env.STEPS if step.inputs}
    assert {name for name in before if before[name] != after[name]} == {'project', 'imports'}


def test_broken_stamps_count_as_none(project):
    env = env_with(project)
    env.venv.mkdir()
    (env.venv / 'setup-stamps.json').write_text('{"torch": ')
    assert env.stamps() == {}


def test_no_package_index_in_requirements():
    for path in (ROOT / 'requirements').glob('*.txt'):
        assert '://' not in path.read_text() and '--' not in path.read_text().split('#')[0]


def test_jobs_are_bounded_by_memory(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range(64))
    monkeypatch.setattr(Path, 'exists', lambda self: str(self) == '/proc/meminfo')
    monkeypatch.setattr(Path, 'read_text', lambda self: 'MemAvailable:    9000000 kB\n')
    assert setup_env.jobs() == 4


def test_second_run_waits_for_the_lock(project):
    env = setup_env.Environment(project)
    second = env.venv / 'setup.lock'
    with setup_env.take_lock(env), second.open('ab') as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    setup_env.take_lock(env).close()


def test_probe_finds_unmet_pins_and_half_installed_packages(project, monkeypatch):
    venv = project / '.venv'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', venv], check=True)
    site = next(venv.glob('lib/python*/site-packages'))
    env = setup_env.Environment(project)
    assert env.state == {}  # no pip yet: half-made
    pip = importlib.util.find_spec('pip')
    if pip is None:
        pytest.skip('no pip here to link to')
    (site / 'pip').symlink_to(Path(pip.origin).parent)
    for name, version, whole in (('pip', '23', 1), ('torch', '2.13.0+cpu', 1), ('numpy', '2', 0)):
        info = site / f'{name}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
        for mark in ('INSTALLER', 'RECORD')[: 2 if whole else 1]:
            (info / mark).touch()
    env.refresh()
    assert env.met('torch') and not env.met('mmcv') and env.state['torch'] == '2.13.0+cpu'
    assert [Path(p).name for p in env.state['broken']] == ['numpy-2.dist-info']
    assert 'numpy' in env.state['unmet']['build']


def test_a_typing_error_in_requirements_does_not_clear_the_environment(project):
    venv = project / '.venv'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', venv], check=True)
    env = setup_env.Environment(project)
    assert env.state == {}
    site = next(venv.glob('lib/python*/site-packages'))
    (site / 'pip').symlink_to(Path(importlib.util.find_spec('pip').origin).parent)
    (project / 'requirements' / 'dev.txt').write_text('ruff=0.1')
    env.refresh()
    with pytest.raises(setup_env.StepError, match='cannot be read'):
        _ = env.state


def test_commands_end_with_a_killed_set_up(project):
    code = """if True:
        import sys
        sys.path.insert(0, 'tools')
        import setup_env
        env = setup_env.Environment()
        env.log.parent.mkdir(parents=True)
        env.run('sh', '-c', 'sh -c "echo ready; sleep 60; touch late" & wait')
    """
    process = subprocess.Popen([sys.executable, '-c', code], cwd=project)
    log = project / '.venv' / 'setup-logs' / 'setup.log'
    while not (log.exists() and 'ready\n' in log.read_text()):
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while commands_in(project) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not commands_in(project)


def commands_in(folder):
    """The processes whose working directory is this folder."""
    found = []
    for link in Path('/proc').glob('[0-9]*/cwd'):
        with contextlib.suppress(OSError):
            if link.readlink() == folder:
                found.append(link.parent.name)
    return found


def test_a_command_that_fails_is_told_with_its_code(project):
    env = setup_env.Environment(project)
    env.log.parent.mkdir(parents=True)
    env.run('sh', '-c', 'exit 0')
    with pytest.raises(setup_env.StepError, match='code 3'):
        env.run('sh', '-c', 'echo broken; exit 3')
    assert env.log.read_text().endswith('broken\n')
