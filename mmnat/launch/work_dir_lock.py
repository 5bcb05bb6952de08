"""Keeps two trainings from writing into one work directory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from mmnat.errors import UserError, rank

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

NAME = '.training'


@contextlib.contextmanager
def work_dir_of_its_own(work_dir: str) -> Iterator[None]:
    """Hold a work directory while a training runs. The system lets it go when the process ends, however.

    Args:
        work_dir: The directory, which is made if it does not exist.

    Raises:
        UserError: If another training holds it, or the file for that cannot be opened. File systems that
            have no locks are not held.
    """
    if rank() > 0 or fcntl is None:
        yield
        return
    path = Path(work_dir) / NAME
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f'another training is running in the work directory {work_dir}',
                'wait for its end, or give another one: --work-dir DIR',
            ) from None
        except OSError:
            pass
        yield


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open('a')
    except OSError as error:
        raise UserError(
            f'work_dir {path.parent}: {error.filename} cannot be written: {error.strerror}',
            'correct that, or name another folder with --work-dir',
        ) from error
