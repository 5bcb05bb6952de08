"""Processes that end with the one that started them, however that ends. Only Linux can do it."""

import ctypes
import os
import signal
import threading

# Of Linux's prctl.h.
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int | None = None) -> None:
    """Have the system kill this process if its parent ends; do nothing if the system is not Linux.

    Args:
        parent: Process id of the parent, if known: then this process also ends if it is too late already.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError, TypeError):
        return
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_together() -> None:
    """Have this process end with torchrun, if that started it, and data workers end with this process.

    A data worker finds out for itself that its process is gone, but only between two batches and if it does
    not wait for a lock. The system watches the thread that forks, so this holds for the main thread's.
    """
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        end_with_parent()
    parent = None

    def before_fork() -> None:
        nonlocal parent
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else None

    def after_fork() -> None:
        if parent is not None:
            end_with_parent(parent)

    os.register_at_fork(before=before_fork, after_in_child=after_fork)
