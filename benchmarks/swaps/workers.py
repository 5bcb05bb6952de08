"""Processes that examine configs side by side; one that hangs or dies costs its config only."""

import multiprocessing
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from .examine import Outcome, work
from .rows import FAILED

_POLL_SECONDS = 1.0


class _Worker:
    """A process and the config that it is at."""

    def __init__(self, framework: str) -> None:
        context = multiprocessing.get_context('spawn')
        self.connection: Connection
        self.connection, other = context.Pipe()
        self.process: BaseProcess = context.Process(target=work, args=(other, framework), daemon=True)
        self.process.start()
        other.close()
        self.job: tuple[str, str] | None = None
        self.since = 0.0

    def give(self, job: tuple[str, str] | None) -> None:
        """Give it the name and the path of a config, or None to end it."""
        self.job, self.since = job, time.monotonic()
        self.connection.send(None if job is None else job[1])

    def kill(self) -> None:
        """End it whatever it is at."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def examine_all(
    framework: str, jobs: Iterable[tuple[str, str]], processes: int, timeout: float
) -> Iterator[tuple[str, Outcome]]:
    """Examine configs and give each one's name and outcome, as they come.

    Args:
        framework: the configs' framework.
        jobs: their names and paths.
        processes: how many work at a time.
        timeout: seconds that a config may take.
    """
    pending = iter(jobs)
    workers: list[_Worker] = []
    try:
        for job in _first(pending, processes):
            workers.append(_Worker(framework))
            workers[-1].give(job)
        while workers:
            ready = wait([worker.connection for worker in workers], _POLL_SECONDS)
            for worker in list(workers):
                outcome = _outcome(worker, worker.connection in ready, timeout)
                if outcome is None:
                    continue
                name = worker.job[0]
                workers.remove(worker)
                successor = _go_on(worker, next(pending, None), framework)
                workers += [successor] if successor else []
                yield name, outcome
    finally:
        for worker in workers:
            worker.kill()


def _first(jobs: Iterator[tuple[str, str]], count: int) -> Iterator[tuple[str, str]]:
    for _ in range(count):
        job = next(jobs, None)
        if job is None:
            return
        yield job


def _go_on(worker: _Worker, job: tuple[str, str] | None, framework: str) -> _Worker | None:
    """The process that takes the next config: this one, a new one where it died, or none at the end."""
    try:
        if worker.process.is_alive():
            worker.give(job)
            if job is not None:
                return worker
            worker.process.join()
    except (BrokenPipeError, OSError):
        worker.kill()
    if job is None:
        return None
    successor = _Worker(framework)
    successor.give(job)
    return successor


def _outcome(worker: _Worker, ready: bool, timeout: float) -> Outcome | None:
    """What came of a worker's config, None while it is at it; kills a worker that is of no use any more."""
    seconds = time.monotonic() - worker.since
    if ready:
        try:
            return worker.connection.recv()
        except (EOFError, ConnectionError):
            worker.kill()
            return FAILED, f'the process ended with exit code {worker.process.exitcode}', seconds
    if seconds > timeout:
        worker.kill()
        return FAILED, f'not done after {timeout:.0f} seconds', seconds
    return None
