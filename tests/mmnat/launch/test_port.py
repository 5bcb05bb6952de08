"""The port of a distributed run."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mmnat.errors import UserError
from mmnat.launch.port import check_port

TOOLS = Path(__file__).resolve().parents[3] / 'tools'


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind(('', 0))
        listener.listen()
        yield str(listener.getsockname()[1])


def test_free_port():
    with socket.socket() as listener:
        listener.bind(('', 0))
        free = str(listener.getsockname()[1])
    check_port(free)
    check_port(free)


def test_taken_port(taken):
    with pytest.raises(UserError, match=f'port {taken} is in use, perhaps by another run; choose another'):
        check_port(taken)


@pytest.mark.parametrize('port', ['', 'abc', '0', '65536', '-1', '29500.0'])
def test_no_port(port):
    with pytest.raises(UserError, match='is not a number from 1 to 65535'):
        check_port(port)


def launch(script, *args, **variables):
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    environment = dict(os.environ, PATH=path, **variables)
    return subprocess.run([TOOLS / script, *args], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ('script', 'args'), [('dist_train.sh', ('a.py', '2')), ('dist_test.sh', ('a.py', 'a.pth', '2'))]
)
def test_launchers(script, args, taken):
    run = launch(script, *args, PORT=taken)
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        f'error: port {taken} is in use, perhaps by another run; choose another, for example PORT=29501'
        ' before the command'
    ]
    run = launch(script, *args[:-1], PORT=taken)
    assert run.returncode != 0 and f'usage: {script} CONFIG' in run.stderr
