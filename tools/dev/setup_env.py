#!/usr/bin/env python3
"""The parts of `make setup`: `environment` makes .venv with requirements/ and mmcv, `project` builds mmnat.

make runs either only if something has changed that it depends on. If it is interrupted or killed, the next
run goes on from there. The output of every step is kept in .venv/setup-logs.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / '.venv/bin/python'
LOGS = ROOT / '.venv/setup-logs'
NEEDED_GIB = 8  # a CUDA build of torch with its libraries; the CPU build needs half
PIP = (PYTHON, '-m', 'pip', 'install', '--no-compile', '--no-input', '--disable-pip-version-check')
EXACTLY = ('--no-deps', '--no-build-isolation', '--require-hashes')
# Runs a command in a process group that ends when the pipe on stdin closes: with set-up, even if killed.
WATCHED = 'exec 3<&0; { read -r _ <&3; kill -TERM 0; } >/dev/null 2>&1 & exec "$@" 3<&- </dev/null'
# What to do about what a command printed when it failed.
REMEDIES = (
    (r'No space left on device|Disk quota exceeded', 'the disk is full; free some space'),
    (r'Read-only file system|Permission denied', 'a file cannot be written; check who owns this folder'),
    (r'DO NOT MATCH THE HASHES', 'a package differs from requirements/lock.txt; check your package index'),
    (r'(?i)connection|timed out|getaddrinfo|name resolution|ProxyError|SSLError|Could not fetch',
     'the package index cannot be reached; check the network, proxies and `pip config list`'),
    (r'No matching distribution found for (?P<name>[\w.=-]+)',
     'the package index has no {name} for this Python; use another (make PYTHON=...) or another index'),
)  # fmt: skip


def check_machine() -> None:
    """Raise RuntimeError if the machine lacks something that set-up needs."""
    version, free = '{}.{}'.format(*sys.version_info), shutil.disk_usage(ROOT).free / 2**30
    compilers = os.environ.get('CXX', '').split()[:1] or ['c++', 'g++', 'clang++']
    for is_good, problem in (
        ((3, 10) <= sys.version_info[:2] <= (3, 13),
         f'Python 3.10 to 3.13 is needed, this is {version}; use another (make PYTHON=python3.12 ...)'),
        (find_spec('ensurepip') and find_spec('venv'),  # Debian takes them out of Python
         'this Python has no venv; install it (Debian: python3-venv)'),
        (Path(sysconfig.get_path('include'), 'Python.h').exists(),
         'Python.h is missing; install the headers of this Python (Debian: python3-dev)'),
        (any(map(shutil.which, compilers)),
         'no C++ compiler is found; install one (Debian: g++) or name it in CXX'),
        (free >= NEEDED_GIB or PYTHON.exists(),
         f'{NEEDED_GIB} GiB of disk are needed, {free:.1f} are free; free some space'),
    ):  # fmt: skip
        if not is_good:
            raise RuntimeError(problem)


def run(step: str, *command: 'str | Path') -> str:
    """Run a command of a step; returns the last line that it printed."""
    log, began, (read_end, _) = LOGS / f'{step}.log', time.monotonic(), os.pipe()
    print(f'{step} ...', flush=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    jobs = max(1, min(len(os.sched_getaffinity(0)), os.sysconf('SC_PHYS_PAGES') >> 19))  # 2 GiB each
    path = f'{PYTHON.parent}{os.pathsep}{os.environ["PATH"]}'
    variables = {'MAX_JOBS': str(jobs), **os.environ, 'PATH': path, 'PYTHONPATH': ''}
    command = ('sh', '-c', WATCHED, 'sh', *map(str, command))
    with log.open('w') as output:
        streams = dict(stdin=read_end, stdout=output, stderr=output)
        done = subprocess.run(command, cwd=ROOT, env=variables, start_new_session=True, **streams)
    lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()] or ['']
    if done.returncode:
        errors = [line.strip() for line in lines if re.search(r'(?i)\berror\b', line)] or lines[-1:]
        found = ((re.search(pattern, '\n'.join(lines)), remedy) for pattern, remedy in REMEDIES)
        causes = [remedy.format(**match.groupdict()) for match, remedy in found if match]
        problem = f'{causes[0]} ({errors[-1][:150]})' if causes else errors[-1][:250]
        raise RuntimeError(f'{step} failed: {problem}; all that it printed is in {log}')
    print(f'{step}: {time.monotonic() - began:.0f} s', flush=True)
    return lines[-1]


def make_environment() -> None:
    """Make .venv, or what is missing in it."""
    pip = PYTHON.with_name('pip')  # it is made last, and names the folder that it was made in
    if not pip.exists() or str(PYTHON) not in pip.read_text():
        subprocess.run([sys.executable, '-m', 'venv', '--clear', PYTHON.parents[1]], check=True)
    for package in (ROOT / '.venv').glob('lib/python*/site-packages/*.dist-info'):
        if not (package / 'RECORD').exists():  # pip was killed before it was complete
            shutil.rmtree(package)
    run('torch', *PIP, '-r', 'requirements/torch.txt')
    wheel = ThreadPoolExecutor().submit(run, 'mmcv', PYTHON, 'tools/dev/build_mmcv.py')
    run('packages', *PIP, *EXACTLY, '-r', 'requirements/lock.txt')
    run('mmcv-install', *PIP, '--no-deps', '--no-index', '--force-reinstall', wheel.result())
    run('imports', PYTHON, '-c', 'import mmcv.ops, mmdet.apis, mmseg.apis')


def main() -> int:
    """Do one part, one process at a time; returns the exit code."""
    try:
        check_machine()
        fcntl.flock(os.open(ROOT, os.O_RDONLY), fcntl.LOCK_EX)
        if sys.argv[1] == 'environment':
            make_environment()
        else:
            run('project', *PIP, '--no-deps', '--no-build-isolation', '--editable', '.')
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f'setup: {error}', file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print('setup: interrupted; the next run goes on from here', file=sys.stderr, flush=True)
        return 130
    return 0


if __name__ == '__main__':
    os._exit(main())  # whatever still runs ends with this process
