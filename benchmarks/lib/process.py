"""Calls in a process of their own, for what needs fresh memory, or may fail or never end."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

_SLOW_IMPORTS = ('torch', 'natten_ops', 'mmnat.models', 'mmdet.models.backbones.swin')
# Seconds for a process to clean up after its result.
_GRACE = 10


class NotRun(Exception):
    """A call that did not come to its end; the message says why."""


@functools.cache
def _context() -> ForkServerContext:
    """The server that processes are forked from: it has imported what this one has and computed nothing."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([name for name in _SLOW_IMPORTS if name in sys.modules])
    return context


def in_fresh_process(function: Callable[..., Any], *arguments: object, limit: float) -> Any:
    """What ``function(*arguments)`` returns in a new process.

    Args:
        function: Of a module, for it is named to the process; like arguments and result.
        arguments: Its arguments.
        limit: Seconds after which the process is ended.

    Raises:
        NotRun: If the function raised, the process died or the time was over.
    """
    receiver, sender = _context().Pipe(duplex=False)
    process = _context().Process(target=_run, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            raise NotRun(f'took longer than {limit:.0f} s')
        succeeded, result = receiver.recv()
        process.join(_GRACE)
    except EOFError:
        process.join()
        raise NotRun(f'the process died with exit code {process.exitcode}') from None
    finally:
        _end(process)
        receiver.close()
    if not succeeded:
        raise NotRun(result)
    return result


def _run(sender: Connection, function: Callable[..., Any], arguments: tuple) -> None:
    """The new process: send what the function returned, or why it did not."""
    # A group of its own, so that compilers it may have started can be ended with it.
    os.setsid()
    try:
        sender.send((True, function(*arguments)))
    except Exception as error:
        sender.send((False, _reason(error)))


def _reason(error: Exception) -> str:
    """An exception in one line."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return 'needs more memory than its limit'
    if 'out of memory' in str(error):
        return 'needs more memory than the device has'
    # Messages of compilers and of torch go on with advice.
    text = str(error).strip().partition('\n')[0].partition('. ')[0]
    return f'{type(error).__name__}: {text}'.rstrip(':. ')


def _end(process: ForkServerProcess) -> None:
    """End a process and what it started."""
    if process.is_alive():
        # The group does not exist before the process has made it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.join()
