"""The processes of a distributed run begin together, or end together."""

import contextlib
import hashlib
import json
import os
import platform
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel, MMSeparateDistributedDataParallel
from mmengine.runner import Runner
from torch import nn

from mmnat.errors import CheckpointError, UserError, abbreviate

#: How long processes wait for the checks of others: disks of machines differ in speed.
PATIENCE = timedelta(minutes=10)
# If the first process holds the store, others may already connect their process groups through it.
_stores: list[dist.Store] = []


@contextlib.contextmanager
def ready_together(launcher: str) -> Iterator[None]:
    """Run the checks of this process, and fail if those of another process do.

    Machines may have different files. A process that ends before the others have connected leaves those of
    other machines waiting for half an hour.

    Args:
        launcher: That of the command line.

    Raises:
        UserError: If another process is not ready.
    """
    processes = int(os.environ.get('WORLD_SIZE', 1))
    if launcher not in ('pytorch', 'slurm') or processes == 1 or not dist.is_available():
        yield
        return
    store, rank, _ = next(dist.rendezvous('env://', timeout=PATIENCE))
    _stores.append(store)
    try:
        yield
    except Exception as error:
        known = isinstance(error, (UserError, CheckpointError))
        _tell(store, rank, str(error) if known else repr(error))
        with contextlib.suppress(RuntimeError):
            _exchanged(store, rank, processes)
        raise
    except BaseException:
        _tell(store, rank, 'it was interrupted')
        raise
    _tell(store, rank, '')
    try:
        others = _exchanged(store, rank, processes)
    except RuntimeError as error:
        raise UserError(
            f'not all of the {processes} processes were ready within {PATIENCE}',
            'see what the others have printed',
        ) from error
    for number, (node, problem) in enumerate(others):
        if problem:
            raise UserError(
                f'process {number} on {node} cannot begin: {problem}',
                'the processes need the same files and the same command',
            )


def _tell(store: dist.Store, rank: int, problem: str) -> None:
    store.set(f'mmnat/ready/{rank}', json.dumps([platform.node(), problem]))


def _exchanged(store: dist.Store, rank: int, processes: int) -> list[tuple[str, str]]:
    """What all processes have found. Also one that has failed waits: the first may hold the store."""
    found = [json.loads(store.get(f'mmnat/ready/{number}')) for number in range(processes)]
    failed = any(problem for _, problem in found)
    if failed and threading.current_thread() is threading.main_thread():
        # When the first process ends, launchers send it to the others, whose exit code it would become.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    store.set(f'mmnat/read/{rank}', '')
    if failed or rank == 0:
        with contextlib.suppress(RuntimeError):  # the first process has ended, and all have read
            store.wait([f'mmnat/read/{number}' for number in range(processes)], PATIENCE)
    return found


class SameStart(Hook):
    """Ends a distributed training whose processes begin with different weights or iterations.

    Each process loads checkpoints itself. Without a shared file system they may find different ones, and
    nothing would make their weights equal afterwards.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare."""
        if get_world_size() == 1:
            return
        starts = all_gather_object([platform.node(), runner.epoch, runner.iter, _digest(runner.model)])
        if all(start[1:] == starts[0][1:] for start in starts):
            return
        found = (f'{number} on {start[0]} with iteration {start[2]}' for number, start in enumerate(starts))
        raise UserError(
            f'the processes begin with different weights: {abbreviate(list(found))}',
            'give all machines the same files, by a shared file system or by a copy of the checkpoint',
        )


def _digest(model: nn.Module) -> str:
    """Of the weights, if each process has all of them."""
    digest = hashlib.blake2b()
    if isinstance(model, (MMDistributedDataParallel, MMSeparateDistributedDataParallel)):
        for value in model.state_dict().values():
            digest.update(value.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy())
    return digest.hexdigest()
