"""Compiles the CUDA kernels, and the tests of their emulator, for the host: with GCC and its sanitizers."""

import contextlib
import fcntl
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CSRC = ROOT / 'natten_ops/csrc'
KERNELS = CSRC / 'cuda'
HEADERS = ('.h', '.cuh')
OUT = ROOT / 'build/simt'

COMPILER = shlex.split(os.environ.get('CXX', 'g++'))
COMMON = [
    '-std=c++17',
    '-g1',
    '-fPIC',
    '-fvisibility=hidden',
    '-fno-omit-frame-pointer',
    '-ffp-contract=off',
]
ADDRESS = ['-fsanitize=address']
BOTH = ['-fsanitize=address,undefined', '-fno-sanitize-recover=undefined']
INCLUDES = ['-include', str(HERE / 'device.h'), '-I', str(HERE), '-I', str(KERNELS)]


@functools.cache
def asan_library() -> str | None:
    """What has to be preloaded into a program that loads the library; None without GCC's sanitizers."""
    if not shutil.which(COMPILER[0]):
        return None
    command = [*COMPILER, '-print-file-name=libasan.so']
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return path if os.path.isabs(path) else None


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One build at a time, as several test runs may share the folder."""
    OUT.mkdir(parents=True, exist_ok=True)
    with open(OUT / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f'{shlex.join(command)}\n{run.stderr}')


def _once(name: str, inputs: list[Path], command: list[str]) -> Path:
    """The file that a command with ``-o`` makes; made anew when the inputs or the command change."""
    digest = hashlib.sha256(shlex.join(command).encode())
    for path in inputs:
        digest.update(path.read_bytes())
    stem, suffix = os.path.splitext(name)
    result = OUT / f'{stem}-{digest.hexdigest()[:16]}{suffix}'
    if not result.exists():
        made = OUT / f'{stem}.new{suffix}'
        _run([*command, '-o', str(made)])
        for old in OUT.glob(f'{stem}-{"?" * 16}{suffix}'):
            old.unlink()
        made.rename(result)
    return result


def _object(source: Path) -> Path:
    headers = sorted(
        path for folder in (HERE, CSRC) for path in folder.rglob('*') if path.suffix in HEADERS
    )
    # The emulator's engine checks for itself; it has to be fast.
    options = ['-O2', *ADDRESS] if source.stem == 'simt' else ['-O1', *BOTH]
    command = [*COMPILER, *COMMON, *options, *INCLUDES, '-x', 'c++', '-c', str(source)]
    return _once(f'{source.stem}.o', [source, *headers], command)


def _linked(name: str, sources: list[Path], options: list[str]) -> Path:
    with _locked(), ThreadPoolExecutor(int(os.environ.get('MAX_JOBS', '2'))) as pool:
        objects = list(pool.map(_object, sources))
        return _once(name, [], [*COMPILER, *BOTH, *options, *map(str, objects)])


@functools.cache
def kernels() -> Path:
    """The library of all kernels; worker.py calls it."""
    sources = [path for path in sorted(KERNELS.glob('*.cu')) if 'cuda_runtime.h' not in path.read_text()]
    return _linked('kernels.so', [HERE / 'simt.cpp', HERE / 'library.cpp', *sources], ['-shared'])


@functools.cache
def selftest() -> Path:
    """The program with the emulator's own tests."""
    return _linked('selftest', [HERE / 'simt.cpp', HERE / 'selftest.cpp'], [])
