"""What the user can correct, reported as one line instead of a traceback. Needs no other package."""

import errno
import functools
import importlib.util
import os
import re
import reprlib
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

EXIT_CODE = 2
INTERRUPTED = 130  # what shells expect after Ctrl-C

# What goes wrong during a run for reasons outside of the program: the exceptions, what their text has, the
# problem and the remedy. If a worker of a DataLoader fails, only the text of its traceback arrives.
_EXPLANATIONS: tuple[tuple[tuple[type[Exception], ...], str, str, str], ...] = (
    (
        (AssertionError,),  # mmcv's LoadImageFromFile
        r'failed to load image: (.+)',
        'image {} cannot be decoded',
        'replace the file, or remove it from the data set',
    ),
    (
        (FileNotFoundError,),
        r"No such file or directory: '(.+\.(?i:jpe?g|png|bmp|tiff?|webp))'",
        'image {} does not exist',
        'restore the file, or remove it from the data set',
    ),
    (
        (AssertionError,),
        r'TTA of instance segmentation does not support now',
        'mmdet merges only boxes of augmented images, and the model predicts masks',
        'leave out --tta',
    ),
    (
        (RuntimeError,),
        r'port: (\d+).*EADDRINUSE',
        'port {} is in use, so the processes of the run cannot connect through it',
        'choose another with PORT=... before tools/dist_*.sh, --master-port for torchrun, or MASTER_PORT',
    ),
    (
        (RuntimeError,),
        r'client socket has timed out.*trying to connect to \(([^)]+)\)',
        'this process cannot connect to the first one of the run at {}',
        'start the first one, and check the address and the port (MASTER_ADDR, PORT of tools/dist_*.sh)',
    ),
    (
        (RuntimeError,),  # of gloo, of NCCL, of torch's store
        r'(Connection (?:closed|reset) by peer|Broken pipe|remote process exited|Connection was likely'
        r' closed|Timed out waiting \d+ms for \w+ operation)',
        'another process of the run has ended or cannot be reached ({})',
        'see what it has printed; `mmnat train --resume` continues from the latest checkpoint',
    ),
    (
        (RuntimeError,),  # torch.OutOfMemoryError is one
        r'((?:CUDA|HIP) out of memory\. Tried to allocate [\d.]+ \w+)',
        '{}',
        'use a smaller batch_size, with_cp=True in the backbone, smaller images or --amp',
    ),
    (
        (RuntimeError,),
        r"DefaultCPUAllocator: (can't allocate memory: you tried to allocate \d+ bytes)",
        'out of memory: {}',
        'use a smaller batch_size, with_cp=True in the backbone, or smaller images',
    ),
    (
        (RuntimeError,),
        r'^(.+) does not have a deterministic implementation',
        'randomness.deterministic = True, and torch has no deterministic {}, which the model uses',
        'leave deterministic out; the seed alone stays',
    ),
    (
        (RuntimeError,),
        r'insufficient shared memory|unable to (?:open|write|allocate|resize|mmap).* shared memory',
        'the shared memory, through which data workers send images, is full',
        'give a container more (docker run --shm-size=8g), or use fewer num_workers',
    ),
    (
        (RuntimeError,),
        r'DataLoader worker \(pid\(?s?\)? ?[\d, ]+\) (?:is|are)? ?killed by signal: Killed',
        'the system ended a data worker, as it does if the memory is full',
        'use fewer num_workers, or a smaller batch_size',
    ),
)
# The same for what the system refuses.
_REFUSALS = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT),
        'free space there; `mmnat train --resume` continues from the latest checkpoint',
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), 'correct its permissions, or name another place'
    ),
    errno.EMFILE: 'allow more with ulimit -n, or use fewer num_workers',
}
_REPORT = (
    'This is no mistake that mmnat knows. If your input is right, please report it to the maintainers of'
    ' mmnat, with the lines above and the output of `mmnat --version`.'
)
_LONGEST = 2000  # characters of a message
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 100
_BRIEF.maxlevel = 3
# Packages that are never missing: what fails to import from them is a fault.
_OURS = ('mmnat', 'mmdet_nat', 'mmseg_nat', 'natten_ops')


class UserError(Exception):
    """A mistake in the user's input.

    Args:
        problem: What is wrong, and in which file or field.
        remedy: What to do about it.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f'{problem}; {remedy}')


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message names it, says why, and what to do."""


def abbreviate(items: Sequence, limit: int = 10) -> str:
    """Join ``items`` for a message; of those after the first ``limit`` only the number is given."""
    shown = ', '.join(str(item) for item in items[:limit])
    rest = len(items) - limit
    return f'{shown} and {rest} more' if rest > 0 else shown


def printable(text: str) -> str:
    """Escape what a terminal does not print, in a line that may have names of any file in it."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


def brief(value: Any) -> str:
    """Write a value of a file for a message: its first parts only."""
    return _BRIEF.repr(value)


@functools.cache
def warn(message: str) -> None:
    """Print a warning on stderr: once, and in one process of a distributed run.

    Args:
        message: What may not be meant, and what to do if it is not.
    """
    if rank() == 0:
        print(_line(f'warning: {message}'), file=sys.stderr, flush=True)


def report_user_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Decorate the entry point of a command, so that mistakes end it with a message instead of a traceback.

    Args:
        main: The entry point.

    Returns:
        The entry point, which turns three things into ``error: ...`` on stderr and exit code 2:
        :class:`UserError`, :class:`CheckpointError`, and what is known to go wrong while a model runs for
        reasons outside of the program: images that fail to load, a full disk, too little memory, a port
        in use, a package that is not installed. Ctrl-C becomes exit code 130. Other exceptions pass
        through; if nothing catches them, the traceback ends with where to report it.
    """

    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
        except (UserError, CheckpointError) as error:
            # Every process of a distributed run makes the same checks.
            if rank() == 0:
                _print(error)
            raise SystemExit(EXIT_CODE) from None
        except (KeyboardInterrupt, Exception) as error:
            if _is_interruption(error):
                print('interrupted', file=sys.stderr, flush=True)
                raise SystemExit(INTERRUPTED) from None
            explained = _explained(error)
            if explained is None:
                _ask_for_report(error)
                raise
            # Only the process that met it knows about it.
            _print(explained)
            raise SystemExit(EXIT_CODE) from None

    return wrapper


def _line(text: str) -> str:
    """Make a line of a message, without its middle if it is very long."""
    if len(text) > _LONGEST:
        text = f'{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}'
    return printable(text)


def _print(error: Exception) -> None:
    print(_line(f'error: {error}'), file=sys.stderr, flush=True)


def rank() -> int:
    """The number of this process in a distributed run, also before the processes are connected."""
    return int(os.environ.get('RANK', 0))


def _is_interruption(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, or what a library raised in its place."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _explained(error: BaseException) -> UserError | None:
    for kinds, pattern, problem, remedy in _EXPLANATIONS:
        # A worker's traceback quotes the source line that raises, before the message itself.
        found = re.findall(pattern, str(error)) if isinstance(error, kinds) else []
        if found:
            return UserError(problem.format(found[-1]), remedy)
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        place = f'{error.filename}: ' if error.filename else ''
        return UserError(f'{place}{error.strerror}', _REFUSALS[error.errno])
    return _missing_package(error)


def _missing_package(error: BaseException | None) -> UserError | None:
    """Name the package that is not installed, if an import failed for that reason."""
    while isinstance(error, ImportError):
        package = str(error.name).partition('.')[0]
        missing = isinstance(error, ModuleNotFoundError) and package not in (*_OURS, *sys.modules)
        if missing and importlib.util.find_spec(package) is None:
            return UserError(f'the run needs {package}, which is not installed', 'install it')
        error = error.__cause__ or error.__context__  # frameworks raise their own in its place
    return None


def _ask_for_report(error: BaseException) -> None:
    """Say where to report an error, below its traceback, if it ends the program."""
    asked = isinstance(sys.excepthook, _AskForReport) and sys.excepthook.error is error
    if not asked:  # by a command that this one called
        sys.excepthook = _AskForReport(error)


class _AskForReport:
    """Prints what the interpreter prints of an error that ends the program, and where to report it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.previous = sys.excepthook

    def __call__(
        self, kind: type[BaseException], value: BaseException, traceback: TracebackType | None
    ) -> None:
        self.previous(kind, value, traceback)
        if value is self.error:
            print(_REPORT, file=sys.stderr, flush=True)
