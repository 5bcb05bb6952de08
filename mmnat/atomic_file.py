"""Files and folders that appear complete or not at all."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmnat.errors import UserError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is there at the end becomes ``path``.

    A file of that name is replaced. A folder of that name is not, unless it is empty. After an exception
    ``path`` is as it was before.

    Args:
        path: The file or folder to write.

    Raises:
        UserError: If it cannot be written.
    """
    with _explaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: no name beside the file is certain to be free.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix='.') as folder:
            unfinished = Path(folder) / path.name
            yield unfinished
            if unfinished.is_file() and path.is_dir():
                raise IsADirectoryError(0, 'it is a folder')
            os.replace(unfinished, path)


@contextlib.contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write files to; at the end they replace those of their names in ``folder``.

    Args:
        folder: Where the files belong. It is made if it does not exist.

    Raises:
        UserError: If they cannot be written.
    """
    with _explaining(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix='.') as unfinished:
            yield Path(unfinished)
            for file in Path(unfinished).iterdir():
                os.replace(file, folder / file.name)


@contextlib.contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = 'free some space' if error.errno in (errno.ENOSPC, errno.EDQUOT) else 'choose another'
        raise UserError(f'{path} cannot be written: {error.strerror}', remedy) from error


class _NotNeeded(Exception):
    """Ends an attempt before the file is replaced."""


def check_writable(path: Path) -> None:
    """Check before long work that a file can be written; raises UserError if not."""
    if path.is_dir():
        raise UserError(f'{path} cannot be written: it is a folder', 'choose another')
    with contextlib.suppress(_NotNeeded), atomic_write(path) as unfinished:
        unfinished.touch()
        raise _NotNeeded
