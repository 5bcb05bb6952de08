"""Files that are replaced only when they are complete."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from user_errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes ``path`` at the end and is removed after an exception.

    Raises:
        UserError: Where it cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(0, 'it is a folder')
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: no name beside the file is certain to be free.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix='.') as folder:
            unfinished = Path(folder) / path.name
            yield unfinished
            os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}', 'choose another') from error


class _NotNeeded(Exception):
    """Ends an attempt before the file is replaced."""


def check_writable(path: Path) -> None:
    """Check before anything is measured that a file can be written; raises UserError if not."""
    with contextlib.suppress(_NotNeeded), replacing(path) as unfinished:
        unfinished.touch()
        raise _NotNeeded
