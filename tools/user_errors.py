"""Mistakes in the user's input, reported as one line instead of a traceback; needs no other package."""

import functools
import sys
from collections.abc import Callable, Sequence

EXIT_CODE = 2
INTERRUPTED = 130  # what shells expect after Ctrl-C


class UserError(Exception):
    """A mistake in the user's input.

    Args:
        problem (str): What is wrong, and in which file or field.
        remedy (str): What to do about it.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f'{problem}; {remedy}')


def print_error(error: Exception) -> None:
    """Print a mistake the way all tools do."""
    print(f'error: {error}', file=sys.stderr, flush=True)


def report_user_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Decorate an entry point to end with ``error: ...`` on stderr and exit code 2.

    Args:
        main (Callable): The entry point.

    Returns:
        Callable: The entry point that turns :class:`UserError` into a message, and Ctrl-C into exit code
        130. Other exceptions pass through.
    """

    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
        except UserError as error:
            print_error(error)
            raise SystemExit(EXIT_CODE) from None
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr, flush=True)
            raise SystemExit(INTERRUPTED) from None

    return wrapper
