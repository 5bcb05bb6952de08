"""That `make test-sanitize` runs what it says: the library with sanitizers, which end a faulty program."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from natten_ops import dispatch

pytestmark = pytest.mark.skipif(
    os.environ.get('NATTEN_OPS_SANITIZE', '0') != '1', reason='only for `make test-sanitize`'
)

# One query and key more than there is memory for.
BEYOND_THE_END = """
import ctypes, sys, torch
from natten_ops import na1d
tokens, head_dim = 64, 32
allocate = ctypes.CDLL(None).malloc
allocate.argtypes, allocate.restype = [ctypes.c_size_t], ctypes.c_void_p
address = allocate(4 * tokens * head_dim)
ctypes.memset(address, 0, 4 * tokens * head_dim)
numbers = (ctypes.c_float * ((tokens + 1) * head_dim)).from_address(address)
query = torch.frombuffer(numbers, dtype=torch.float32).view(1, tokens + 1, 1, head_dim)
na1d(query[:, :-1], query[:, :-1], query[:, :-1], 7)
print('within bounds', flush=True)
na1d(query, query, query, 7)
print('beyond the end')
"""


def test_library_with_sanitizers_is_loaded():
    library = Path(dispatch.__file__).with_name('_C.abi3.so')
    assert not dispatch.CPU_PROBLEM and library.parts[-4:-1] == ('build', 'sanitize', 'natten_ops')
    assert str(library) in Path('/proc/self/maps').read_text()
    symbols = library.read_bytes()
    assert b'__asan_report_load' in symbols and b'__ubsan_handle' in symbols
    assert ctypes.CDLL(None).__asan_init  # of the process


def test_read_beyond_the_end_ends_the_program():
    run = subprocess.run([sys.executable, '-c', BEYOND_THE_END], cwd='/', capture_output=True, text=True)
    assert run.returncode != 0 and run.stdout == 'within bounds\n'
    assert 'AddressSanitizer: heap-buffer-overflow' in run.stderr
