"""Reads checkpoint files and never executes code in them."""

import re
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmnat.errors import CheckpointError

#: How to train without pretrained weights, for messages.
WITHOUT_WEIGHTS = (
    'train from random weights: init_cfg=None in the backbone, on the command line'
    ' --cfg-options model.backbone.init_cfg=None'
)

_UNSAFE_GLOBAL = re.compile(r'(?:GLOBAL|function) <?(?P<name>[\w.]+)')


def _history_buffer_method(owner: Any, name: str) -> Any:
    """Replaces ``getattr``, which pickle uses to store the methods of HistoryBuffer."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise UnpicklingError(f'Unsupported global: GLOBAL builtins.getattr of {name}')
    return getattr(owner, name)


def safe_globals() -> list:
    """The harmless classes in mmengine's checkpoints, besides tensors.

    Returns:
        A list for :class:`torch.serialization.safe_globals`.
    """
    arrays = (np._core if hasattr(np, '_core') else np.core).multiarray
    # NumPy 2 renamed the module of these functions; files have either name.
    functions = [
        (function, f'numpy.{package}.multiarray.{function.__name__}')
        for function in (arrays._reconstruct, arrays.scalar)
        for package in ('core', '_core')
    ]
    dtypes = {type(np.dtype(code)) for code in np.typecodes['All']}
    return [
        HistoryBuffer,
        (_history_buffer_method, '__builtin__.getattr'),
        (_history_buffer_method, 'builtins.getattr'),
        slice,
        np.ndarray,
        np.dtype,
        *dtypes,
        *functions,
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
            checkpoint or would execute code.
    """
    path, file = str(path), local_file(path)
    try:
        with torch.serialization.safe_globals(safe_globals()):
            return torch.load(file, map_location=map_location, weights_only=True)
    except (torch.OutOfMemoryError, MemoryError):
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
    if not file.is_file():
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
    return CheckpointError(f'checkpoint {path} is cut short or not a torch checkpoint; {remedy}')
