"""Processes of a distributed run that begin together, or end together."""

import multiprocessing
import os
import signal
import socket

import pytest
import torch

pytest.importorskip('mmengine')

from mmengine.model import MMDistributedDataParallel
from torch import nn

from mmnat.errors import UserError
from mmnat.launch import agreement
from mmnat.launch.agreement import SameStart, ready_together

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='needs gloo')
FORK = multiprocessing.get_context('fork')


def _begin(rank, variables, error, queue):
    os.environ.update(variables, RANK=str(rank))
    try:
        with ready_together('pytorch'):
            if error is not None:
                raise error
        outcome = 'ready'
    except Exception as raised:
        outcome = f'{type(raised).__name__}: {raised}'
    queue.put((rank, outcome, signal.getsignal(signal.SIGTERM) == signal.SIG_IGN))


def begin(*errors):
    """What happens to processes some of which have an error."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        port = str(listener.getsockname()[1])
    variables = dict(WORLD_SIZE=str(len(errors)), MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    queue = FORK.Queue()
    processes = [
        FORK.Process(target=_begin, args=(rank, variables, error, queue))
        for rank, error in enumerate(errors)
    ]
    for process in processes:
        process.start()
    try:
        answers = sorted(queue.get(timeout=60) for _ in processes)
    finally:
        for process in processes:
            process.join(20)
            process.kill()
    assert len({ignores for _, _, ignores in answers}) == 1
    return [outcome for _, outcome, _ in answers], answers[0][2]


def test_all_ready():
    assert begin(None, None, None) == (['ready'] * 3, False)


def test_one_is_not_ready():
    outcomes, ignore_sigterm = begin(None, UserError('no data', 'get some'), None)
    expected = f'UserError: process 1 on {socket.gethostname()} cannot begin: no data; get some; '
    assert outcomes[1] == 'UserError: no data; get some'
    assert outcomes[0].startswith(expected) and outcomes[2] == outcomes[0]
    assert ignore_sigterm, "or else the launcher's signal decides about the exit code"


def test_unexpected_error_of_the_first():
    outcomes, _ = begin(KeyError('x'), None)
    assert outcomes[0] == "KeyError: 'x'"
    assert f"process 0 on {socket.gethostname()} cannot begin: KeyError('x')" in outcomes[1]


@pytest.mark.parametrize(('launcher', 'processes'), [('none', '2'), ('pytorch', '1'), ('mpi', '2')])
def test_nobody_to_wait_for(launcher, processes, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', processes)
    monkeypatch.setattr(torch.distributed, 'rendezvous', None)
    with ready_together(launcher):
        pass


class Runner:
    epoch, iter = 1, 7


@pytest.fixture
def start(monkeypatch):
    """Start beside a process that has a model and an iteration of its own."""

    def start(model, other_model, other_iter=7):
        def both(mine):
            other = agreement._digest(other_model)
            return [mine, ['elsewhere', 1, other_iter, other]]

        monkeypatch.setattr(agreement, 'get_world_size', lambda: 2)
        monkeypatch.setattr(agreement, 'all_gather_object', both)
        monkeypatch.setattr(agreement, 'MMDistributedDataParallel', nn.Linear)
        runner = Runner()
        runner.model = model
        SameStart().before_train(runner)

    assert agreement.MMDistributedDataParallel is MMDistributedDataParallel
    return start


def linear(value):
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, value)
    nn.init.zeros_(model.bias)
    return model


def test_same_start(start):
    start(linear(1), linear(1))
    start(linear(1).bfloat16(), linear(1).bfloat16())
    with pytest.raises(UserError, match=r'different weights: 0 on .* iteration 7, 1 on elsewhere'):
        start(linear(1), linear(1.001))
    with pytest.raises(UserError, match='1 on elsewhere with iteration 5; give all machines the same'):
        start(linear(1), linear(1), other_iter=5)
