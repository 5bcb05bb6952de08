"""NumPy's arrays and numbers in checkpoints, rebuilt without believing what a file says of their memory.

NumPy's own unpickling takes the flags of a dtype from the file, also that which tells whether its values
are pointers: a file could have NumPy follow any address.
"""

from pickle import UnpicklingError
from typing import Any

import numpy as np

# Kinds of numbers, strings and, as lists, other objects.
_KINDS = 'biufcSUO'
_NEVER = 'Unsupported global: GLOBAL numpy.{}'


class PlainDtype:
    """Stands for a dtype while a file is read.

    Args:
        name: A dtype without fields, such as ``'f8'``.
    """

    def __init__(self, name: str | bytes, *_: Any) -> None:
        self.dtype = np.dtype(name.decode() if isinstance(name, bytes) else str(name))
        if self.dtype.kind not in _KINDS:
            raise UnpicklingError(_NEVER.format('dtype'))

    def __setstate__(self, state: tuple) -> None:
        """Take the order of bytes, and nothing else."""
        if state[1] in ('<', '>'):
            self.dtype = self.dtype.newbyteorder(state[1])


class PlainArray(np.ndarray):
    """An array that a file fills. It is saved as NumPy's own."""

    def __new__(cls) -> 'PlainArray':
        """Make an empty one."""
        return super().__new__(cls, (0,), np.int8)

    def __setstate__(self, state: tuple) -> None:
        """Take shape and values."""
        *version, shape, dtype, is_fortran, values = state
        if not isinstance(dtype, PlainDtype):
            raise UnpicklingError(_NEVER.format('ndarray'))
        super().__setstate__((*version, shape, dtype.dtype, is_fortran, values))

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _new_array(*_: Any) -> PlainArray:
    return PlainArray()


def _never_called(*_: Any) -> None:
    raise UnpicklingError(_NEVER.format('ndarray'))


def _no_bytes() -> bytes:
    """What files call for the values of an empty array."""
    return b''


def _scalar(dtype: PlainDtype, value: bytes) -> np.generic:
    if not isinstance(dtype, PlainDtype) or dtype.dtype.kind == 'O' or not isinstance(value, bytes):
        raise UnpicklingError(_NEVER.format('scalar'))
    return np.frombuffer(value, dtype.dtype, 1)[0]


def safe_globals() -> list:
    """What stands for NumPy's names in files, for :class:`torch.serialization.safe_globals`."""
    # NumPy 2 renamed the module of these functions; files have either name.
    functions = [
        (function, f'numpy.{package}.multiarray.{name}')
        for name, function in (('_reconstruct', _new_array), ('scalar', _scalar))
        for package in ('core', '_core')
    ]
    return [
        *functions,
        (_no_bytes, 'builtins.bytes'),
        (_no_bytes, '__builtin__.bytes'),
        (_never_called, 'numpy.ndarray'),  # files only name it
        (PlainDtype, 'numpy.dtype'),
        PlainArray,
    ]
