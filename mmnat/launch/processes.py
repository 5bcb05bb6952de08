"""Makes processes end with the process that started them, even if it is killed. Works on Linux only."""

import ctypes
import os
import signal
import threading

# From Linux's prctl.h.
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int | None = None) -> None:
    """Make the system kill this process when its parent ends; do nothing if the system is not Linux.

    Args:
        parent: Process id of the parent, if known. Then this process also ends if the parent is gone.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError, TypeError):
        return
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _obey_only(parent: int) -> None:
    """Make this process ignore SIGTERM from all but its parent; do nothing on systems that do not say whose.

    Schedulers send it to all processes of a training. The training still needs its data workers until it
    has saved a checkpoint.
    """
    if not hasattr(signal, 'sigwaitinfo'):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def obey() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
            pass
        os._exit(0)  # other codes look like a fault to the data loader

    threading.Thread(target=obey, daemon=True).start()


def end_together() -> None:
    """Make this process end with torchrun, if torchrun started it, and data workers end with this process.

    A data worker notices itself that its parent is gone, but only between two batches, and not while it
    waits for a lock. The system watches the thread that forks, so only workers of the main thread end
    this way.

    Data workers and other forked processes obey SIGTERM from this process only.
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
            _obey_only(parent)

    os.register_at_fork(before=before_fork, after_in_child=after_fork)
