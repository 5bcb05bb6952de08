"""What the user can correct, reported as one line instead of a traceback. Needs no other package."""

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence

EXIT_CODE = 2
INTERRUPTED = 130  # what shells expect after Ctrl-C

# What mmcv's LoadImageFromFile asserts, and what opening a missing file raises. If a worker of a DataLoader
# meets either, only the text of the worker's traceback arrives.
_IMAGE_ERRORS = (
    (
        re.compile(r'failed to load image: (.+)'),
        'cannot be decoded',
        'replace the file, or remove it from the data set',
    ),
    (
        re.compile(r"No such file or directory: '(.+\.(?:jpe?g|png|bmp|tiff?|webp))'", re.IGNORECASE),
        'does not exist',
        'restore the file, or remove it from the data set',
    ),
)


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


@functools.cache  # each message once
def warn(message: str) -> None:
    """Print what may be a mistake, or may be meant, as ``warning: ...`` on stderr."""
    if _rank() == 0:  # every process of a distributed run makes the same checks
        print(f'warning: {message}', file=sys.stderr, flush=True)


def abbreviate(items: Sequence, limit: int = 10) -> str:
    """Join ``items`` for a message; of those after the first ``limit`` only the number is given."""
    shown = ', '.join(str(item) for item in items[:limit])
    rest = len(items) - limit
    return f'{shown} and {rest} more' if rest > 0 else shown


def report_user_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Decorate the entry point of a command, so that mistakes end it with a message instead of a traceback.

    Args:
        main: The entry point.

    Returns:
        The entry point, which turns three things into ``error: ...`` on stderr and exit code 2:
        :class:`UserError`, :class:`CheckpointError`, and images that fail to load while a model runs.
        Ctrl-C becomes exit code 130. Other exceptions pass through.
    """

    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
        except (UserError, CheckpointError) as error:
            # Every process of a distributed run makes the same checks.
            if _rank() == 0:
                _print(error)
            raise SystemExit(EXIT_CODE) from None
        except (AssertionError, FileNotFoundError) as error:
            image_error = _image_error(error)
            if image_error is None:
                raise
            # Only the process that was given the image knows about it.
            _print(image_error)
            raise SystemExit(EXIT_CODE) from None
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr, flush=True)
            raise SystemExit(INTERRUPTED) from None

    return wrapper


def _print(error: Exception) -> None:
    print(f'error: {error}', file=sys.stderr, flush=True)


def _rank() -> int:
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def _image_error(error: Exception) -> UserError | None:
    for pattern, problem, remedy in _IMAGE_ERRORS:
        # A worker's traceback quotes the source line that raises, before the message itself.
        paths = pattern.findall(str(error))
        if paths:
            return UserError(f'image {paths[-1]} {problem}', remedy)
    return None
