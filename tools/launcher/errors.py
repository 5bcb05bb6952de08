"""Mistakes that the launchers report as one line: of the user, in checkpoints and in images."""

import functools
import os
import re
from collections.abc import Callable, Sequence

import user_errors
from user_errors import EXIT_CODE, UserError, print_error

from nat_backbones.checkpoint_file import CheckpointError

# What mmcv's LoadImageFromFile asserts, and what opening a file that is gone raises. Both arrive
# in the text of a worker's traceback when a DataLoader worker met them.
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


def abbreviate(items: Sequence, limit: int = 10) -> str:
    """Join ``items`` for a message, counting the ones after the first ``limit``."""
    shown = ', '.join(str(item) for item in items[:limit])
    rest = len(items) - limit
    return f'{shown} and {rest} more' if rest > 0 else shown


def report_user_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Decorate an entry point to end with ``error: ...`` on stderr and exit code 2.

    Args:
        main (Callable): The entry point.

    Returns:
        Callable: The entry point that turns :class:`UserError`, a checkpoint that cannot be used,
        and images that turn out not to load while the model runs, into a message, and Ctrl-C into
        exit code 130. Other exceptions pass through.
    """

    @user_errors.report_user_errors
    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
        except (UserError, CheckpointError) as error:
            # Every process of a distributed run makes the same checks.
            if _rank() == 0:
                print_error(error)
            raise SystemExit(EXIT_CODE) from None
        except (AssertionError, FileNotFoundError) as error:
            image_error = _image_error(error)
            if image_error is None:
                raise
            # Only the process that was given the image knows about it.
            raise image_error from None

    return wrapper


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
