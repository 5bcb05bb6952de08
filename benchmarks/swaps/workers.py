"""Processes that examine configs in parallel. If one hangs or dies, only its config is lost."""

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, TimeoutError, as_completed

from pebble import ProcessExpired, ProcessPool

from .examine import Outcome, examine_in_worker, prepare_worker
from .rows import FAILED


def examine_all(
    framework: str, jobs: Iterable[tuple[str, str]], processes: int, timeout: float
) -> Iterator[tuple[str, Outcome]]:
    """Examine configs, and give each one's name and outcome as soon as it is known.

    Args:
        framework: The configs' framework.
        jobs: Their names and paths.
        processes: The number of parallel processes.
        timeout: Seconds that a config may take.
    """
    context = multiprocessing.get_context('spawn')
    pool = ProcessPool(processes, initializer=prepare_worker, initargs=(framework,), context=context)
    try:
        names = {
            pool.schedule(examine_in_worker, args=(path, framework), timeout=timeout): name
            for name, path in jobs
        }
        for future in as_completed(names):
            yield names[future], _outcome(future, timeout)
    finally:
        pool.stop()
        pool.join()


def _outcome(future: Future[Outcome], timeout: float) -> Outcome:
    try:
        return future.result()
    except TimeoutError:
        return Outcome(FAILED, f'not done after {timeout:.0f} seconds', timeout)
    except ProcessExpired as error:
        return Outcome(FAILED, f'the process ended with exit code {error.exitcode}', None)
