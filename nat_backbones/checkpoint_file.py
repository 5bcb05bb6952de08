"""Reading checkpoint files without ever executing code that they hold."""

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

_UNSAFE_GLOBAL = re.compile(r'(?:GLOBAL|function) <?(?P<name>[\w.]+)')


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; says which, why, and what to do."""


def is_url(path: str) -> bool:
    """Whether ``path`` is to be downloaded."""
    return '://' in path


def read_checkpoint(path: str, map_location: Any = 'cpu') -> Any:
    """Read a file that ``torch.save`` wrote, tensors and plain data only.

    Args:
        path: a local file or a URL; what is downloaded is kept in torch.hub's cache.
        map_location: as for :func:`torch.load`. Default: 'cpu'.

    Returns:
        What the file holds.

    Raises:
        CheckpointError: where the file does not exist, cannot be downloaded, is cut short, is no
            checkpoint, or would execute code.
    """
    if is_url(path):
        path = _downloaded(path)
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f'checkpoint {path} does not exist; check the path')
    try:
        return torch.load(file, map_location=map_location, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise _refused(path, error) from error


def _downloaded(url: str) -> str:
    """The file in torch.hub's cache, downloaded if it is not there."""
    file = Path(torch.hub.get_dir()) / 'checkpoints' / Path(url.partition('?')[0]).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f'checkpoint {url} cannot be downloaded ({error}); download it elsewhere and put it at'
                f' {file}, or train without it: set init_cfg of the backbone to None'
            ) from error
    return str(file)


def _refused(path: str, error: Exception) -> CheckpointError:
    unsafe = _UNSAFE_GLOBAL.search(str(error))
    if isinstance(error, UnpicklingError) and unsafe:
        return CheckpointError(
            f'checkpoint {path} holds Python objects that could run code when loaded'
            f' ({unsafe["name"].rstrip(".")}), so nothing of it was loaded; get a file with tensors only,'
            ' or, if you trust its origin, convert it elsewhere with'
            " torch.save({'state_dict': model.state_dict()}, ...)"
        )
    return CheckpointError(
        f'checkpoint {path} is cut short or not a torch checkpoint; copy or download it again'
    )
