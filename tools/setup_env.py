#!/usr/bin/env python3
"""Makes .venv: torch, the OpenMMLab packages, the development tools and this project.

What is installed is pinned in requirements/. Steps that already hold are skipped, so running
this again costs seconds, and after an interruption it goes on where it stopped. Every command's
output is kept in .venv/setup-logs. The wheel of mmcv, which is compiled here, is kept in the
user's cache folder and reused by other copies of the project.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

if sys.version_info < (3, 10):  # noqa: UP036 - this file must run to say so; see the Makefile
    sys.stderr.write(
        f'setup: Python 3.10 or newer is needed, this is {platform.python_version()} '
        f'({sys.executable}). Choose another with `make PYTHON=python3.12 ...`.\n'
    )
    sys.exit(2)

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
NEEDED_GIB = 8  # a CUDA build of torch with its libraries; the CPU build needs half
NINJA_LINE = re.compile(r'\s*\[(\d+)/(\d+)\] ')
ERROR_LINE = re.compile(r'\berror\b|\bfatal\b|^FAILED|Error:', re.IGNORECASE)
NETWORK_LINE = re.compile(r'Retrying|Could not fetch|Connection|timed out|HTTP error|not a trusted')
LISTS = ('torch', 'build', 'libraries', 'dev', 'openmmlab', 'mmcv')
OWN_SOURCES = ('pyproject.toml', 'setup.py', 'tools/setup_cuda.py', 'natten_ops/csrc')
# What decides whether, how and for which devices setup.py builds the CUDA library.
CUDA_VARIABLES = ('NATTEN_OPS_CUDA', 'TORCH_CUDA_ARCH_LIST', 'CUDA_HOME', 'CUDA_PATH')

# Runs in .venv. A package counts as installed once pip has written INSTALLER, which it does last.
PROBE = """
import importlib.metadata as metadata, json, pathlib, sys, sysconfig
from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
from pip._vendor.packaging.utils import canonicalize_name
assert sys.version_info >= (3, 10)
site, installed, broken = pathlib.Path(sysconfig.get_path('purelib')), {}, []
for entry in site.iterdir():
    if entry.suffix == '.dist-info' and all((entry / f).exists() for f in ('INSTALLER', 'RECORD')):
        dist = metadata.PathDistribution(entry)
        installed[canonicalize_name(entry.name.split('-')[0])] = dist.version
    elif entry.suffix == '.dist-info' or entry.name.startswith('~'):
        broken.append(str(entry))
def parse(text):
    lines = (line.split('#')[0].strip() for line in text.splitlines())
    needs = [Requirement(line) for line in lines if line]
    return [r for r in needs if r.marker is None or r.marker.evaluate()]
try:
    lists = {name: parse(text) for name, text in json.loads(sys.argv[1]).items()}
except InvalidRequirement as error:
    sys.stderr.write(str(error).splitlines()[0])
    sys.exit(4)
assert 'pip' in installed
limits = {canonicalize_name(r.name): r.specifier for r in lists.pop('constraints')}
def met(need):
    name = canonicalize_name(need.name)
    version = installed.get(name)
    return version is not None and all(
        spec.contains(version, prereleases=True)
        for spec in (need.specifier, limits.get(name, need.specifier)))
print(json.dumps({
    'unmet': {name: [str(r) for r in needs if not met(r)] for name, needs in lists.items()},
    'torch': installed.get('torch'), 'project': 'mmnat' in installed, 'broken': broken,
    'tag': 'cp%d%d' % sys.version_info[:2], 'platform': sysconfig.get_platform()}))
"""

# Runs in .venv: which operators mmcv can be built with here, and whether the built ones load.
# The library is loaded by its path: `import mmcv` would also fail for reasons of other packages.
MMCV_PROBE = """
import importlib.util as util, json, os, pathlib, torch
from torch.utils.cpp_extension import CUDA_HOME
gpu, variant, error = torch.cuda.is_available(), 'cpu', 'not installed'
if CUDA_HOME and (gpu or os.environ.get('FORCE_CUDA') == '1'):
    variant = 'sm%d%d' % torch.cuda.get_device_capability() if gpu else 'cuda'
found = util.find_spec('mmcv')
for path in pathlib.Path(found.origin).parent.glob('_ext*.so') if found and found.origin else ():
    try:
        spec = util.spec_from_file_location('mmcv._ext', path)
        spec.loader.exec_module(util.module_from_spec(spec))
        error = ''
    except ImportError as problem:
        error = str(problem).splitlines()[0]
print(json.dumps({'gpu': gpu, 'variant': variant, 'error': error}))
"""
# Runs a command in a process group that ends when the pipe on stdin closes, which it does even if
# set-up is killed: compilers that live on would write where the next run's compilers do.
WATCHED = """exec 3<&0
{ read -r _ <&3; kill -TERM 0; } >/dev/null 2>&1 &
exec "$@" 3<&- </dev/null"""
IMPORTS = 'import mmcv.ops, mmdet.apis, mmseg.apis, natten_ops'


class Unfit(Exception):
    """This machine lacks something; told in one line, before anything long is begun."""


class StepError(Exception):
    """A step's command failed."""


class Progress:
    """Shows on one line (a terminal) or on some lines (a file) how far a step is."""

    every = 20.0

    def __init__(self, prefix: str) -> None:
        self.prefix, self.tty = prefix, sys.stdout.isatty()
        self.text, self.count, self.began, self.shown = '', '', time.monotonic(), 0.0

    def phase(self, text: str) -> None:
        """Begins a part of the step."""
        self.done()
        self.text, self.count, self.began, self.shown = text, '', time.monotonic(), 0.0
        self._write(f'{self.prefix} {text} ...')

    def feed(self, line: str) -> None:
        """Takes note of ninja's count in a line of a command's output."""
        match = NINJA_LINE.match(line)
        if match:
            self.count = f'{match[1]}/{match[2]} compiled, '

    def tick(self) -> None:
        """Shows the time gone by, when it is time to."""
        elapsed = time.monotonic() - self.began
        if elapsed - self.shown < (1.0 if self.tty else self.every):
            return
        self.shown = elapsed
        start = f'{self.prefix} {self.text} ...' if self.tty else '     '
        self._write(f'{start} {self.count}{duration(elapsed)}')

    def done(self) -> None:
        """Ends the part begun last."""
        if self.text:
            took = duration(time.monotonic() - self.began)
            self._write(f'{self.prefix} {self.text}: {took}' + '\n' * self.tty)
        self.text = ''

    def abort(self) -> None:
        """Leaves the line as it is and begins another."""
        print(end='\n' * (self.tty and bool(self.text)), flush=True)

    def _write(self, text: str) -> None:
        print(f'\r\033[K{text}' if self.tty else text, end='' if self.tty else '\n', flush=True)


class Environment:
    """The virtual environment: what is in it, what should be, and how to run commands in it."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root, self.venv = root, root / '.venv'
        self.python, self.build = self.venv / 'bin' / 'python', self.venv / 'build'
        cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
        self.cache = Path(cache) / 'mmnat' / 'wheels'
        self.log = self.venv / 'setup-logs' / 'setup.log'
        self.progress = Progress('')
        self.refresh()

    def refresh(self) -> None:
        """Forgets what was found out, after something was installed."""
        self._state: dict[str, Any] | None = None
        self._mmcv: dict[str, Any] | None = None

    @property
    def state(self) -> dict[str, Any]:
        """What PROBE tells; {} if .venv is missing, half-made or broken."""
        if self._state is None:
            names = LISTS + ('constraints',)
            texts = {name: (self.root / f'requirements/{name}.txt').read_text() for name in names}
            self._state = self._ask(PROBE, json.dumps(texts))
        return self._state

    @property
    def mmcv(self) -> dict[str, Any]:
        """What MMCV_PROBE tells."""
        if self._mmcv is None:
            self._mmcv = self._ask(MMCV_PROBE) if self.state.get('torch') else {}
            self._mmcv = self._mmcv or {'variant': None, 'error': 'torch does not import'}
        return self._mmcv

    def _ask(self, code: str, *arguments: str) -> dict[str, Any]:
        command = [str(self.python), '-I', '-c', code, *arguments]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, env=self.variables())
        except OSError:
            return {}
        if answer.returncode == 4:
            raise StepError(f'requirements/ cannot be read: {answer.stderr}')
        return json.loads(answer.stdout) if answer.returncode == 0 else {}

    def variables(self) -> dict[str, str]:
        """The variables of a command: the user's, without those that lead out of .venv."""
        env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
        env['PATH'] = f'{self.python.parent}{os.pathsep}{env.get("PATH", os.defpath)}'
        env.update(PIP_DISABLE_PIP_VERSION_CHECK='1', PIP_NO_INPUT='1', PIP_USER='0')
        env.setdefault('MAX_JOBS', str(jobs()))
        compiler = find_compiler()
        if compiler and shutil.which('c++') is None:
            env['CXX'] = compiler  # torch would look for c++
        return env

    def met(self, *names: str) -> bool:
        """Whether everything in these lists of requirements/ is installed."""
        return bool(self.state) and not any(self.state['unmet'][name] for name in names)

    def wheel_key(self) -> str:
        """Names what a built mmcv depends on; another torch never gets a stale one."""
        state, libc = self.state, ''.join(platform.libc_ver())
        version = pin(self.root, 'mmcv').split('==')[1]
        torch, variant = state.get('torch'), self.mmcv['variant']
        return f'mmcv{version}-torch{torch}-{state["tag"]}-{state["platform"]}-{libc}-{variant}'

    def stamp(self, inputs: tuple[str, ...]) -> str:
        """A digest of what a step depends on: files, the torch it ran with, the place, perhaps CUDA."""
        has_cuda = 'tools/setup_cuda.py' in inputs
        cuda = [find_nvcc(), *map(os.environ.get, CUDA_VARIABLES)] if has_cuda else ''
        digest = hashlib.sha256(f'{self.root} {self.state.get("torch")} {cuda}'.encode())
        for name in (*inputs, 'tools/setup_env.py'):
            top = self.root / name
            for path in sorted(top.rglob('*')) if top.is_dir() else [top]:
                if path.is_file():
                    digest.update(f'\0{path.relative_to(self.root)}\0'.encode() + path.read_bytes())
        return digest.hexdigest()

    def stamps(self) -> dict[str, str]:
        """The stamps of the steps that ran."""
        try:
            return json.loads((self.venv / 'setup-stamps.json').read_text())
        except (OSError, ValueError):
            return {}

    def run(self, *command: str, **variables: str) -> None:
        """Runs a command with its output in the log; raises StepError if it fails."""
        with self.log.open('ab') as log:
            log.write(f'$ {" ".join(command)}\n'.encode())
            log.flush()
            read_end, write_end = os.pipe()
            process = subprocess.Popen(
                ['sh', '-c', WATCHED, 'sh', *command],
                cwd=self.root,
                env={**self.variables(), **variables},
                stdin=read_end,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,
            )
            os.close(read_end)
            try:
                follow(process.stdout, log, self.progress)
                process.wait()
            finally:
                os.close(write_end)
                code = process.wait()
        self.refresh()
        if code:
            raise StepError(f'`{" ".join(command[:6])} ...` ended with code {code}')

    def pip(self, *arguments: str, **variables: str) -> None:
        """Runs pip in .venv."""
        self.run(str(self.python), '-m', 'pip', *arguments, **variables)

    def install(self, *names: str, options: tuple[str, ...] = ()) -> None:
        """Installs lists of requirements/."""
        self.progress.phase(f'installing {", ".join(names)}')
        files = [part for name in names for part in ('-r', f'requirements/{name}.txt')]
        self.pip('install', '-c', 'requirements/constraints.txt', *options, *files)


class Step(NamedTuple):
    """One part of the set-up: skipped if it holds and its input files are as they were."""

    name: str
    holds: Callable[[Environment], bool]
    run: Callable[[Environment], None]
    inputs: tuple[str, ...] = ()

    def satisfied(self, env: Environment) -> bool:
        """Whether there is nothing to do."""
        current = not self.inputs or env.stamps().get(self.name) == env.stamp(self.inputs)
        return current and self.holds(env)


def duration(seconds: float) -> str:
    """Seconds as people write them."""
    minutes, seconds = divmod(round(seconds), 60)
    return f'{minutes}m {seconds:02d}s' if minutes else f'{seconds}s'


def follow(output: BinaryIO, log: BinaryIO, progress: Progress) -> None:
    """Copies a command's output to its log until it ends, showing progress meanwhile."""
    rest = b''
    while True:
        if select.select([output], [], [], 1.0)[0]:
            chunk = os.read(output.fileno(), 1 << 16)
            if not chunk:
                return
            log.write(chunk)
            log.flush()
            *lines, rest = (rest + chunk).split(b'\n')
            for line in lines:
                progress.feed(line.decode(errors='replace'))
        progress.tick()


def relevant_lines(text: str, count: int = 20) -> list[str]:
    """The last lines of a log, from the first error in them on if there is one."""
    lines = [line[:200].rstrip() for line in text.splitlines() if line.strip()][-200:]
    first = next((i for i, line in enumerate(lines) if ERROR_LINE.search(line)), len(lines))
    return lines[min(first, max(0, len(lines) - count)) :][:count]


def pin(root: Path, name: str) -> str:
    """The pinned requirement of a list that holds only one."""
    lines = (root / f'requirements/{name}.txt').read_text().splitlines()
    return next(line for line in lines if '==' in line and not line.startswith('#')).strip()


def jobs() -> int:
    """How many compilers to run: one for each usable core that has 2 GiB of memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    limits = [64 * GIB]
    for path, pattern in (
        ('/proc/meminfo', r'MemAvailable:\s+(\d+)( kB)'),
        ('/sys/fs/cgroup/memory.max', r'(\d+)()'),
    ):
        match = re.search(pattern, Path(path).read_text()) if Path(path).exists() else None
        if match:
            limits.append(int(match[1]) * (1024 if match[2] else 1))
    return max(1, min(cores or 1, min(limits) // (2 * GIB)))


def find_compiler() -> str | None:
    """The C++ compiler that a build would use."""
    own = os.environ.get('CXX', '').strip()  # may have a launcher before it: ccache g++
    known = [own] if own else ['c++', 'g++', 'clang++']
    return next((name for name in known if shutil.which(name.split()[0])), None)


def find_nvcc() -> str | None:
    """A CUDA compiler, where setup.py would look for one without CUDA_HOME."""
    return shutil.which('nvcc') or shutil.which('nvcc', path='/usr/local/cuda/bin')


def check_machine(env: Environment) -> None:
    """Raises Unfit if the machine lacks something that set-up needs."""
    import sysconfig

    version = f'python{sys.version_info[0]}.{sys.version_info[1]}'
    if not env.state:
        try:
            import ensurepip  # noqa: F401 - Debian takes it out of Python
            import venv  # noqa: F401
        except ImportError:
            raise Unfit(
                f'this Python has no venv or ensurepip. Install them (Debian, Ubuntu: '
                f'{version}-venv) or choose another Python with `make PYTHON=...`'
            ) from None
        if not Path(sysconfig.get_path('include'), 'Python.h').exists():
            raise Unfit(
                f'Python.h is missing, and extensions cannot be built without it. Install the '
                f'headers of this Python (Debian, Ubuntu: {version}-dev; Fedora: python3-devel)'
            )
    if find_compiler() is None:
        raise Unfit(
            'no C++ compiler found (looked for $CXX, c++, g++, clang++). Install one (Debian, '
            'Ubuntu: g++; Fedora: gcc-c++) or name it in CXX'
        )
    needed = NEEDED_GIB if not env.state.get('torch') else 2
    free = shutil.disk_usage(env.root).free / GIB
    if free < needed:
        raise Unfit(
            f'{needed} GiB of free disk are needed in {env.root}, there are {free:.1f}. '
            f'Free some or move the project'
        )


def index_problem(output: str, wanted: str) -> str:
    """What is wrong, told by the output of `pip index versions`; '' if wanted is there."""
    name, version = wanted.split('==')
    listed = re.search(r'Available versions: (.*)', output)
    offered = re.findall(r'[^\s,]+', listed[1]) if listed else []
    if any(entry.split('+')[0] == version for entry in offered):
        return ''
    if not offered and NETWORK_LINE.search(output):
        causes = re.findall(r"broken by '(.*)': /", output)
        cause = f' ({causes[-1].split(": ")[-1][:100].strip(chr(39) + ")")})' if causes else ''
        return (
            f'the package index cannot be reached{cause}. Check the network, the proxy variables '
            f'and the index in your pip configuration (`pip config list`, PIP_INDEX_URL)'
        )
    newest = f'; the newest there is {offered[0]}' if offered else ''
    return (
        f'the package index has no {name} {version} for this Python and platform{newest}. Use '
        f'another Python (`make PYTHON=...`) or index (pip configuration, PIP_INDEX_URL)'
    )


def make_venv(env: Environment) -> None:
    """Makes .venv, clearing away a half-made or broken one."""
    env.progress.phase('making .venv')
    for entry in env.venv.iterdir():
        if entry.name not in ('setup.lock', 'setup-logs', 'build'):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    env.run(sys.executable, '-m', 'venv', str(env.venv))


def probe_index(env: Environment) -> None:
    """Raises Unfit if the package index is out of reach or lacks the pinned torch."""
    wanted = pin(env.root, 'torch')
    env.progress.phase(f'asking the package index for {wanted}')
    options = ('--retries', '1', '--timeout', '15')
    with contextlib.suppress(StepError):  # the output tells why
        env.pip('index', 'versions', wanted.split('==')[0], *options)
    problem = index_problem(env.log.read_text(errors='replace'), wanted)
    if problem:
        raise Unfit(problem)


def cached_wheel(env: Environment) -> Path | None:
    """A wheel of mmcv built earlier for the same torch, Python and platform."""
    return next((env.cache / env.wheel_key()).glob('*.whl'), None)


def unpack_mmcv(env: Environment, folder: Path) -> Path:
    """Downloads and unpacks mmcv's source; a finished tree is kept, for ninja to resume in."""
    source = folder / 'source'
    if not source.exists():
        shutil.rmtree(folder, ignore_errors=True)
        env.progress.phase('downloading the source of mmcv')
        options = ('--no-deps', '--no-binary', ':all:', '--no-build-isolation', '-d', str(folder))
        env.pip('download', *options, pin(env.root, 'mmcv'))
        safe = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}
        shutil.unpack_archive(next(folder.glob('*.tar.gz')), folder / 'unpacked', **safe)
        next((folder / 'unpacked').iterdir()).rename(source)
    return source


def build_wheel(env: Environment) -> Path:
    """Compiles mmcv and puts the wheel in the user's cache."""
    key, variant = env.wheel_key(), env.mmcv['variant']
    source = unpack_mmcv(env, env.build / key)
    files = len([*source.glob('mmcv/ops/csrc/pytorch/*.cpp')])
    files += len([*source.glob('mmcv/ops/csrc/pytorch/cpu/*.cpp')])
    env.progress.phase(f'building mmcv ({files} files{"" if variant == "cpu" else " and CUDA"})')
    # No debug information: writing it takes longer than optimizing.
    flags = {n: f'{os.environ.get(n, "")} -O2 -g0'.strip() for n in ('CFLAGS', 'CXXFLAGS')}
    if variant == 'cpu' and env.mmcv['gpu']:
        print('note: a GPU but no CUDA compiler (nvcc) found; mmcv gets CPU operators only')
        flags['CUDA_VISIBLE_DEVICES'] = ''
    # pip's own cache would return a wheel built against an earlier torch.
    options = ('-v', '--no-cache-dir', '--no-build-isolation', '--no-deps')
    dist = env.build / key / 'dist'
    env.pip('wheel', *options, '-w', str(dist), str(source), **flags)
    wheel = next(dist.glob('*.whl'))
    try:
        (env.cache / key).mkdir(parents=True, exist_ok=True)
        part = env.cache / key / f'{wheel.name}.{os.getpid()}.part'
        shutil.copyfile(wheel, part)
        return part.replace(env.cache / key / wheel.name)
    except OSError as problem:
        print(f'note: the wheel of mmcv cannot be kept for other copies: {problem}')
        return wheel


def install_mmcv(env: Environment) -> None:
    """Installs mmcv from the cached wheel or a new one, and checks that its operators load."""
    key, error = env.wheel_key(), ''
    if env.mmcv['variant'] is None:
        raise StepError('torch is installed but does not import; remove .venv and run this again')
    for _ in range(2):
        wheel = cached_wheel(env) or build_wheel(env)
        env.progress.phase('installing mmcv')
        try:
            env.pip('install', '--no-deps', '--no-index', '--force-reinstall', str(wheel))
            error = env.mmcv['error']
        except StepError as problem:
            error = str(problem)
        if not error:
            (env.venv / 'mmcv-key').write_text(key)
            shutil.rmtree(env.build, ignore_errors=True)
            return
        wheel.unlink()
        shutil.rmtree(env.build / key, ignore_errors=True)
    raise StepError(f'mmcv was rebuilt, and its operators still do not load: {error}')


def mmcv_holds(env: Environment) -> bool:
    """Whether the installed mmcv was built for the installed torch and loads."""
    key = env.venv / 'mmcv-key'
    loads = env.met('mmcv') and not env.mmcv['error']
    return loads and key.exists() and key.read_text() == env.wheel_key()


def install_project(env: Environment) -> None:
    """Installs this project in place, compiling its operators; for CUDA too where nvcc is found."""
    env.progress.phase('building the operators of this project')
    env.pip('install', '-v', '--no-build-isolation', '--no-deps', '-e', '.')


def project_holds(env: Environment) -> bool:
    """Whether this project is installed and its compiled operators are in place."""
    return bool(env.state.get('project')) and any(env.root.glob('natten_ops/**/*.so'))


def check_imports(env: Environment) -> None:
    """Imports everything once."""
    env.progress.phase('checking that everything imports')
    env.run(str(env.python), '-c', IMPORTS)


def network_unneeded(env: Environment) -> bool:
    """Whether all that is still to be installed is on this machine."""
    others = [name for name in LISTS if name != 'mmcv']
    return env.met(*others) and (mmcv_holds(env) or cached_wheel(env) is not None)


def files(*names: str) -> tuple[str, ...]:
    """Paths of lists of requirements/."""
    return tuple(f'requirements/{name}.txt' for name in (*names, 'constraints'))


NO_DEPS = ('--no-deps', '--no-build-isolation')
STEPS = (
    Step('venv', lambda env: bool(env.state), make_venv),
    Step('index', network_unneeded, probe_index),
    Step('torch', lambda e: e.met('torch'), lambda e: e.install('torch'), files('torch')),
    Step('build-tools', lambda e: e.met('build'), lambda e: e.install('build'), files('build')),
    Step(
        'libraries',
        lambda env: env.met('libraries', 'dev'),
        lambda env: env.install('libraries', 'dev'),
        files('libraries', 'dev'),
    ),
    Step(
        'openmmlab',
        lambda env: env.met('openmmlab'),
        lambda env: env.install('openmmlab', options=NO_DEPS),
        files('openmmlab'),
    ),
    Step('mmcv', mmcv_holds, install_mmcv),
    Step('project', project_holds, install_project, OWN_SOURCES),
    Step('imports', lambda env: True, check_imports, files(*LISTS) + OWN_SOURCES),
)


def set_up(env: Environment) -> None:
    """Runs the steps that have something to do."""
    checked = False
    for number, step in enumerate(STEPS, 1):
        env.progress = Progress(f'[{number}/{len(STEPS)}]')
        if step.satisfied(env):
            continue
        if not checked:
            check_machine(env)
            checked = True
            for path in env.state.get('broken', ()):
                shutil.rmtree(path, ignore_errors=True)  # left by an interrupted installation
        env.log = env.venv / 'setup-logs' / f'{number:02d}-{step.name}.log'
        env.log.parent.mkdir(exist_ok=True)
        env.log.write_bytes(b'')
        step.run(env)
        env.refresh()
        if step.name != 'index' and not step.holds(env):
            raise StepError(f'the step {step.name!r} ran, but what it should install is not there')
        if step.inputs:
            text = json.dumps({**env.stamps(), step.name: env.stamp(step.inputs)}, indent=1)
            part = env.venv / 'setup-stamps.json.part'
            part.write_text(text)
            part.replace(env.venv / 'setup-stamps.json')
        env.progress.done()


def take_lock(env: Environment) -> BinaryIO:
    """Waits until no other set-up of this copy runs; the lock lasts as long as the file is open."""
    env.venv.mkdir(exist_ok=True)
    lock = (env.venv / 'setup.lock').open('ab')
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print('another set-up of this folder is running; waiting for it to end ...', flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def interrupt(*_: object) -> None:
    """Lets a signal end the set-up the way Ctrl-C does."""
    raise KeyboardInterrupt


def main() -> int:
    """Runs or checks the set-up; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n\n')[0],
        epilog='torch comes from the index of your pip configuration, in whichever build (CPU or '
        'CUDA) it gives; where a GPU and nvcc are there, mmcv is built with its CUDA operators.',
    )
    parser.add_argument('--check', action='store_true', help='say what is missing, change nothing')
    options = parser.parse_args()
    began, env = time.monotonic(), Environment()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        if options.check:
            missing = [s.name for s in STEPS[2:] if not s.satisfied(env)] if env.state else ['venv']
            print(f'to be done: {", ".join(missing) or "nothing"}')
            return 1 if missing else 0
        with take_lock(env):
            set_up(env)
    except Unfit as problem:
        env.progress.abort()
        print(f'setup: {problem}.', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        env.progress.abort()
        print('setup: interrupted; the next run goes on from here.', file=sys.stderr)
        return 130
    except (StepError, OSError) as problem:
        env.progress.abort()
        print(f'setup: {problem}', file=sys.stderr)
        if env.log.exists():
            for line in relevant_lines(env.log.read_text(errors='replace')):
                print(f'  | {line}', file=sys.stderr)
            print(f'Full log: {env.log}', file=sys.stderr)
        return 1
    print(f'The environment is complete ({duration(time.monotonic() - began)}).')
    return 0


if __name__ == '__main__':
    sys.exit(main())
