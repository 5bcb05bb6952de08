"""Reads checkpoint files and never executes code in them."""

import os.path as osp
import re
import zipfile
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.logging import HistoryBuffer

from mmnat.errors import CheckpointError

from . import plain_arrays

#: How to train without pretrained weights, for messages.
WITHOUT_WEIGHTS = (
    'train from random weights: init_cfg=None in the backbone, on the command line'
    ' --cfg-options model.backbone.init_cfg=None'
)

# The methods of HistoryBuffer that mmengine's checkpoints name.
_STATISTICS = ('min', 'max', 'current', 'mean')
# Weights hardly compress: a zip file that expands to so many times its size is a trap, unless it is small.
_MOST_EXPANSION = 10
_SMALL = 2**28
_UNSAFE_GLOBAL = re.compile(r'(?:GLOBAL|function) <?(?P<name>[\w.]+)')


def _history_buffer_method(owner: Any, name: str) -> Any:
    """Replaces ``getattr``, which pickle uses to store the methods of HistoryBuffer."""
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise UnpicklingError(f'Unsupported global: GLOBAL builtins.getattr of {name}')
    return getattr(owner, name)


def safe_globals() -> list:
    """The harmless classes in mmengine's checkpoints, besides tensors.

    Returns:
        A list for :class:`torch.serialization.safe_globals`.
    """
    return [
        HistoryBuffer,
        (_history_buffer_method, '__builtin__.getattr'),
        (_history_buffer_method, 'builtins.getattr'),
        slice,
        *plain_arrays.safe_globals(),
    ]


def is_url(path: str) -> bool:
    """Whether ``path`` is a URL, from which the file has to be downloaded."""
    return '://' in path


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> Any:
    """Read a file that ``torch.save`` wrote: tensors, plain data and the objects that mmengine adds.

    Args:
        path: A local file or a URL. A downloaded file is kept in torch.hub's cache.
        map_location: As for :func:`torch.load`.

    Returns:
        The content of the file.

    Raises:
        CheckpointError: If the file does not exist, cannot be downloaded, is cut short, is not a
            checkpoint, would execute code, or needs more memory than there is.
    """
    path, file = str(path), local_file(path)
    _check_expansion(path, file)
    try:
        with torch.serialization.safe_globals(safe_globals()):
            return torch.load(file, map_location=map_location, weights_only=True)
    except torch.OutOfMemoryError:  # of a GPU
        raise
    except PermissionError as error:
        raise CheckpointError(f'checkpoint {path} may not be read; correct its permissions') from error
    except Exception as error:  # a damaged pickle can raise almost anything
        raise _refused(path, file, error) from error


def local_file(path: str | Path, remedy: str = 'check the path') -> Path:
    """Find the file of a path or a URL. A downloaded file is kept in torch.hub's cache.

    Args:
        path: A local file or a URL.
        remedy: What to do if a local file does not exist, for the message.

    Raises:
        CheckpointError: If the file does not exist or cannot be downloaded.
    """
    file = _downloaded(str(path)) if is_url(str(path)) else Path(path).expanduser()
    if not osp.isfile(file):  # False also if no file can have such a name
        raise CheckpointError(f'checkpoint {path} does not exist; {remedy}')
    return file


def _downloaded(url: str) -> Path:
    """The file in torch.hub's cache; it is downloaded if it is not there yet."""
    file = Path(torch.hub.get_dir()) / 'checkpoints' / Path(url.partition('?')[0]).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except (OSError, ValueError, HTTPException) as error:
            raise CheckpointError(
                f'checkpoint {url} cannot be downloaded ({error}); download it elsewhere and put it at'
                f' {file}, or {WITHOUT_WEIGHTS}'
            ) from error
    return file


def _check_expansion(path: str, file: Path) -> None:
    """Reject a zip file whose records are far larger than itself: torch would decompress them."""
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(record.file_size for record in archive.infolist())
    except Exception:  # not a zip file, or a damaged one, of which torch says so
        return
    if size > max(_SMALL, _MOST_EXPANSION * file.stat().st_size):
        raise CheckpointError(
            f'checkpoint {path} of {file.stat().st_size} bytes would expand to {size} bytes, which weights'
            ' never do; get it from another place'
        )


def _refused(path: str, file: Path, error: Exception) -> CheckpointError:
    unsafe = _UNSAFE_GLOBAL.search(str(error))
    if isinstance(error, UnpicklingError) and unsafe:
        return CheckpointError(
            f'checkpoint {path} holds Python objects that could run code when loaded'
            f' ({unsafe["name"].rstrip(".")}), so nothing of it was loaded; get a file with tensors only,'
            ' or, if you trust its origin, convert it elsewhere with'
            " torch.save({'state_dict': model.state_dict()}, ...)"
        )
    remedy = f'delete {file} and start again' if is_url(path) else 'copy or download it again'
    if isinstance(error, MemoryError) or 'allocate' in str(error):
        size = file.stat().st_size
        return CheckpointError(
            f'checkpoint {path} of {size} bytes asks for more memory than there is; if that is more than'
            f' its size, {remedy}'
        )
    return CheckpointError(f'checkpoint {path} is cut short or not a torch checkpoint; {remedy}')
