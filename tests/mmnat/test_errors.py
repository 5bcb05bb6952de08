"""How commands end: in one line for what users can correct, else with where to report it."""

import errno
import subprocess
import sys

import pytest

from mmnat import errors
from mmnat.errors import UserError, report_user_errors, warn

# What torch, mmcv and mmdet say.
RUN = 'Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback: ...\nRuntimeError: '
KNOWN = {
    'image': (AssertionError('failed to load image: a/b.jpg'), 'image a/b.jpg cannot be decoded; replace'),
    'no image': (
        FileNotFoundError(2, 'No such file or directory', 'c d.PNG'),
        'image c d.PNG does not exist',
    ),
    'tta': (
        AssertionError('TTA of instance segmentation does not support now.'),
        'the model predicts masks; leave out --tta',
    ),
    'port': (
        RuntimeError(
            'The server socket has failed to listen on any local network address. port: 29613, useIpv6:'
            ' false, code: -98, name: EADDRINUSE, message: address already in use'
        ),
        'port 29613 is in use',
    ),
    'no address': (
        RuntimeError(
            'The client socket has timed out after 600000ms while trying to connect to (gpu07, 29500).'
        ),
        'this process cannot connect to the first one of the run at gpu07, 29500; start the first one',
    ),
    'lost process': (
        RuntimeError(
            '[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [1]'
        ),
        'another process of the run has ended or cannot be reached (Connection closed by peer); see what',
    ),
    'silent process': (
        RuntimeError(
            '[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 20000ms for recv operation'
        ),
        'cannot be reached (Timed out waiting 20000ms for recv operation)',
    ),
    'lost store': (
        RuntimeError(
            'failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown?'
        ),
        'another process of the run has ended or cannot be reached (Connection was likely closed)',
    ),
    'gpu memory': (
        RuntimeError('CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 4 GiB'),
        'CUDA out of memory. Tried to allocate 2.50 GiB; use a smaller batch_size, with_cp=True',
    ),
    'memory': (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"
            ' tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)'
        ),
        "out of memory: can't allocate memory: you tried to allocate 99 bytes; use",
    ),
    'shared memory': (
        RuntimeError(
            RUN + 'unable to write to file </torch_1_2>: No space left on device (28)\nunable to allocate'
            ' shared memory(shm) for file </torch_1_2>'
        ),
        'the shared memory, through which data workers send images, is full; give a container more',
    ),
    'bus error': (
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's"
            ' workers are out of shared memory. Unexpected bus error encountered in worker. This might be'
            ' caused by insufficient shared memory (shm).'
        ),
        'the shared memory',
    ),
    'killed worker': (
        RuntimeError('DataLoader worker (pid 17) is killed by signal: Killed. '),
        'the system ended a data worker',
    ),
    'not deterministic': (
        RuntimeError(
            'kthvalue CUDA does not have a deterministic implementation, but you set'
            " 'torch.use_deterministic_algorithms(True)'."
        ),
        'torch has no deterministic kthvalue CUDA, which the model uses; leave deterministic out',
    ),
    'full disk': (OSError(errno.ENOSPC, 'No space left on device'), 'No space left on device; free space'),
    'read-only': (
        PermissionError(errno.EACCES, 'Permission denied', 'work/x.log'),
        'work/x.log: Permission denied; correct its permissions',
    ),
    'files': (
        OSError(errno.EMFILE, 'Too many open files'),
        'Too many open files; allow more with ulimit -n',
    ),
    'package': (
        ModuleNotFoundError("No module named 'no_such_package'", name='no_such_package.part'),
        'the run needs no_such_package, which is not installed; install it',
    ),
    'mistake': (UserError('this is wrong', 'do that'), 'this is wrong; do that'),
}
UNKNOWN = [
    RuntimeError('shape mismatch'),
    AssertionError('axis'),
    FileNotFoundError(2, 'No such file or directory', 'notes.txt'),
    OSError(errno.EIO, 'Input/output error', 'disk'),
    KeyError('failed to load image: a.jpg'),
    ImportError("cannot import name 'x' from 'torch'", name='torch'),
    ModuleNotFoundError("No module named 'torch.gone'", name='torch.gone'),
    ModuleNotFoundError("No module named 'mmnat.gone'", name='mmnat.gone'),
    ImportError(),
]


def run(error):
    @report_user_errors
    def main(argv=None):
        raise error

    main()


@pytest.mark.parametrize('case', KNOWN)
def test_known_errors_end_in_one_line(case, capsys):
    error, expected = KNOWN[case]
    with pytest.raises(SystemExit) as exit_info:
        run(error)
    (line,) = capsys.readouterr().err.splitlines()
    assert exit_info.value.code == 2
    assert line.startswith('error: ') and expected in line and '; ' in line


@pytest.mark.parametrize('error', UNKNOWN, ids=repr)
def test_other_errors_pass(error, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)  # as before when the test ends
    with pytest.raises(type(error)) as raised:
        run(error)
    assert raised.value is error and capsys.readouterr().err == ''


SCRIPT = """
from mmnat.errors import report_user_errors

@report_user_errors
def main(argv=None):
    RAISE

CALL
"""


def run_script(raised, call='main()'):
    script = SCRIPT.replace('RAISE', raised).replace('CALL', call)
    return subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)


def test_frameworks_replace_the_error(capsys):
    @report_user_errors
    def main(argv=None):
        try:
            import no_such_package  # noqa: F401
        except ImportError:
            raise ImportError('Please run "pip install something"')  # noqa: B904

    with pytest.raises(SystemExit):
        main()
    assert (
        capsys.readouterr().err
        == 'error: the run needs no_such_package, which is not installed; install it\n'
    )


def test_a_traceback_ends_with_where_to_report_it():
    run = run_script("raise RuntimeError('a fault')")
    lines = run.stderr.splitlines()
    assert run.returncode == 1 and lines[0].startswith('Traceback')
    assert lines[-2:] == ['RuntimeError: a fault', errors._REPORT]
    assert '`mmnat --version`' in errors._REPORT


def test_commands_inside_commands_ask_once():
    run = run_script("raise RuntimeError('a fault')", 'report_user_errors(main)()')
    assert run.stderr.count(errors._REPORT) == 1


def test_errors_of_the_caller_are_not_reported():
    call = 'try:\n    main()\nexcept RuntimeError:\n    pass\nraise KeyError'
    run = run_script("raise RuntimeError('a fault')", call)
    assert run.returncode == 1 and errors._REPORT not in run.stderr


def test_warnings_come_once_and_from_one_process(capsys, monkeypatch):
    warn.cache_clear()
    warn('half of it; look')
    warn('half of it; look')
    assert capsys.readouterr().err == 'warning: half of it; look\n'
    monkeypatch.setenv('RANK', '1')
    warn('something else')
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('replaced', [False, True])
def test_interruptions(capsys, replaced):
    """Ctrl-C, also if a library raises something else in its place."""

    @report_user_errors
    def main(argv=None):
        try:
            raise KeyboardInterrupt
        except BaseException:
            if replaced:
                raise SyntaxError('the config cannot be formatted')  # noqa: B904
            raise

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130 and capsys.readouterr().err == 'interrupted\n'
