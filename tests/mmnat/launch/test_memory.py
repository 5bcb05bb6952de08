"""Freed memory stays with the process where a launcher asks for that."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

PROGRAM = """
import os
import torch
from mmnat.launch.memory import keep_freed_memory

def resident():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGESIZE')

if {keep}:
    assert keep_freed_memory()
tensor = torch.ones(100 << 18)  # 100 MiB
before = resident()
del tensor
print((before - resident()) >> 20)
"""


@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='reads Linux figures of memory')
@pytest.mark.parametrize('keep', [False, True])
def test_keep_freed_memory(keep):
    program = PROGRAM.format(keep=keep)
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    given_back = int(result.stdout)
    assert given_back < 10 if keep else given_back > 90
