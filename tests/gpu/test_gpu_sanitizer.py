"""The CUDA kernels under compute-sanitizer: accesses outside of memory, and races in shared memory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import natten_ops

pytestmark = pytest.mark.gpu
FOLDER = Path(__file__).resolve().parent


@pytest.mark.parametrize('tool', ['memcheck', 'racecheck'])
def test_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which('compute-sanitizer')
    if sanitizer is None:
        pytest.skip('compute-sanitizer is not on PATH')
    package = Path(natten_ops.__file__).parents[1]
    environment = os.environ | dict(
        PYTHONPATH=os.pathsep.join(map(str, (package, FOLDER.parent, FOLDER))),
        # Otherwise tensors lie side by side in large blocks, and no access between them would show.
        PYTORCH_NO_CUDA_MEMORY_CACHING='1',
    )
    command = [sanitizer, '--tool', tool, '--error-exitcode', '9', sys.executable, FOLDER / 'sanitized.py']
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0 and 'all ran' in run.stdout, (run.stdout + run.stderr)[-8000:]
