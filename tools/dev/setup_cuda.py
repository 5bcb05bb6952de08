"""Builds natten_ops' CUDA library for setup.py, with nvcc alone: no GPU and no CUDA build of torch needed.

Objects are kept in build/cuda, so that only what changed is compiled again, beside what ptxas says of every
kernel's registers and spills (tools/dev/check_cuda_resources.py). check_cuda_instructions.py reads the
library.
"""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / 'natten_ops/csrc'
BUILD = ROOT / 'build/cuda'
LIBRARY = '_CUDA.abi3.so'
REPORT = 'resources.txt'
OLDEST_NVCC = (12, 4)
#: Compute capabilities compiled for, as far as nvcc knows them.
CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
#: Those with PTX, which the driver compiles for devices in between; the newest has it, too.
PTX = ((9, 0),)
CUDA_FOLDER = '/usr/local/cuda'
LEAVE_OUT = 'or leave CUDA out with NATTEN_OPS_CUDA=0'


class BuildError(Exception):
    """The library cannot be built; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler.

    Attributes:
        path: The program.
        version: Major and minor.
        capabilities: Compute capabilities that it compiles for.
    """

    path: Path
    version: tuple[int, int]
    capabilities: frozenset[tuple[int, int]]


def find_nvcc(variables: Mapping[str, str] = os.environ) -> Path | None:
    """The nvcc of CUDA_HOME or CUDA_PATH, else of PATH or of /usr/local/cuda; None if there is none."""
    home = variables.get('CUDA_HOME') or variables.get('CUDA_PATH')
    if home:
        found = shutil.which('nvcc', path=f'{home}/bin')
    else:
        found = shutil.which('nvcc', path=variables.get('PATH', os.defpath))
        found = found or shutil.which('nvcc', path=f'{CUDA_FOLDER}/bin')
    return Path(found) if found else None


def ask_nvcc(path: Path) -> Nvcc:
    """Version and compute capabilities of a compiler; raises BuildError if it does not run."""
    try:
        version, listed = (
            subprocess.run([path, option], capture_output=True, text=True, check=True).stdout
            for option in ('--version', '--list-gpu-arch')
        )
        release = re.search(r'release (\d+)\.(\d+)', version)
        capabilities = re.findall(r'compute_(\d+)(\d)\b', listed)
        return Nvcc(path, _numbers(*release.groups()), frozenset(_numbers(*c) for c in capabilities))
    except (OSError, subprocess.CalledProcessError, AttributeError) as error:
        raise BuildError(f'{path} does not tell its version ({error}); repair it, {LEAVE_OUT}') from error


def choose_nvcc(torch_has_cuda: bool, variables: Mapping[str, str] = os.environ) -> Nvcc | None:
    """The compiler to build with; None if the library is to be left out.

    By default it is built if torch has CUDA and an nvcc that is new enough is found. NATTEN_OPS_CUDA=1
    builds it in any case, NATTEN_OPS_CUDA=0 in none.

    Raises:
        BuildError: If it is required and cannot be built.
    """
    choice = variables.get('NATTEN_OPS_CUDA', '')
    if choice not in ('', '0', '1'):
        raise BuildError(
            f'NATTEN_OPS_CUDA must be 0 (leave CUDA out), 1 (require it) or unset, got {choice!r}'
        )
    if choice == '0' or (choice == '' and not torch_has_cuda):
        return None
    path = find_nvcc(variables)
    nvcc = ask_nvcc(path) if path else None
    if nvcc and nvcc.version >= OLDEST_NVCC:
        return nvcc
    oldest = '.'.join(map(str, OLDEST_NVCC))
    if nvcc:
        problem = f'{path} is of CUDA {nvcc.version[0]}.{nvcc.version[1]}, but {oldest} or newer is needed'
        remedy = 'update CUDA, or set CUDA_HOME to a newer one'
    else:
        problem = f'nvcc is not in CUDA_HOME or, if that is unset, on PATH or in {CUDA_FOLDER}'
        remedy = f'install CUDA {oldest} or newer, or correct CUDA_HOME'
    if choice == '1':
        raise BuildError(f'NATTEN_OPS_CUDA=1 cannot be done: {problem}; {remedy}')
    print(f'note: natten_ops is built without CUDA: {problem}; {remedy}', flush=True)
    return None


def choose_architectures(
    nvcc: Nvcc, wanted: str = '', visible: Sequence[tuple[int, int]] = ()
) -> list[str]:
    """What to compile for, oldest first, written as in TORCH_CUDA_ARCH_LIST: '8.0', '9.0a', '12.0+PTX'.

    Args:
        nvcc: The compiler.
        wanted: The value of TORCH_CUDA_ARCH_LIST; empty for the GPUs that are visible.
        visible: Their compute capabilities. If there are none, or one that nvcc does not know, the library
            is compiled for :data:`CAPABILITIES`, with PTX for those in :data:`PTX` and for the newest.

    Raises:
        BuildError: If an entry cannot be read or compiled for, or none is new enough.
    """
    entries = re.split(r'[;,\s]+', wanted.strip()) if wanted.strip() else []
    if not entries and visible and nvcc.capabilities.issuperset(visible):
        entries = ['{}.{}'.format(*capability) for capability in sorted(set(visible))]
    if not entries:
        known = sorted(nvcc.capabilities.intersection(CAPABILITIES))
        has_ptx = {*PTX, known[-1]}
        return ['{}.{}'.format(*k) + '+PTX' * (k in has_ptx) for k in known]
    chosen = {}
    for entry in filter(None, entries):
        match = re.fullmatch(r'(\d+)\.(\d)([af]?)(\+PTX)?', entry)
        if match is None:
            raise BuildError(
                f'TORCH_CUDA_ARCH_LIST must name compute capabilities like "8.0;9.0+PTX", got {entry!r};'
                ' correct it or unset it'
            )
        capability = _numbers(*match.groups()[:2])
        if capability < CAPABILITIES[0]:
            print(f'note: natten_ops has no CUDA kernels for compute capability {entry}', flush=True)
        elif capability not in nvcc.capabilities:
            raise BuildError(
                f'TORCH_CUDA_ARCH_LIST has {entry}, which {nvcc.path} of CUDA {nvcc.version[0]}.'
                f'{nvcc.version[1]} does not compile for; correct it or use a newer CUDA'
            )
        else:
            chosen[entry] = capability
    if not chosen:
        raise BuildError(
            f'TORCH_CUDA_ARCH_LIST={wanted!r} has no compute capability of {CAPABILITIES[0][0]}.'
            f'{CAPABILITIES[0][1]} or newer, which the CUDA kernels need; add one, {LEAVE_OUT}'
        )
    return sorted(chosen, key=chosen.get)


def _numbers(major: str, minor: str) -> tuple[int, int]:
    return int(major), int(minor)


def _code_options(architectures: Sequence[str]) -> list[str]:
    """Options of nvcc for what :func:`choose_architectures` returns."""
    options = []
    for architecture in architectures:
        name = architecture.removesuffix('+PTX').replace('.', '')
        code = f'sm_{name}' if not architecture.endswith('+PTX') else f'[sm_{name},compute_{name}]'
        options.append(f'--generate-code=arch=compute_{name},code={code}')
    return options


def _jobs(variables: Mapping[str, str]) -> int:
    """How many compilers may run: MAX_JOBS, else the usable cores."""
    text = variables.get('MAX_JOBS', '')
    return int(text) if re.fullmatch(r'0*[1-9]\d*', text) else len(os.sched_getaffinity(0))


def _host_compiler(variables: Mapping[str, str]) -> list[str]:
    """Option of nvcc for the C++ compiler that CXX names, which may have a launcher before it."""
    words = [word for word in shlex.split(variables.get('CXX', '')) if not word.startswith('-')]
    return [f'--compiler-bindir={words[-1]}'] if words and 'NVCC_CCBIN' not in variables else []


def _quoted(words: Sequence[str | Path]) -> str:
    """Words of a command, for a value in a ninja file."""
    return shlex.join(map(str, words)).replace('$', '$$')


def _escaped(path: str | Path) -> str:
    """A path in a build line of a ninja file."""
    return re.sub(r'([$ :])', r'$\1', str(path))


def _ninja_file(
    nvcc: Nvcc,
    architectures: Sequence[str],
    compile_options: Sequence[str],
    link_options: Sequence[str],
    variables: Mapping[str, str],
) -> str:
    """How ninja builds the library in :data:`BUILD`."""
    common = [nvcc.path, *_host_compiler(variables), '-O3', '-Xcompiler=-fPIC,-fvisibility=hidden']
    device = [
        '-std=c++17', *_code_options(architectures), f'--threads={min(2, _jobs(variables))}',
        '--resource-usage', '-Xfatbin=-compress-all',
        f'-DNATTEN_OPS_ARCHITECTURES="{" ".join(architectures)}"',
    ]  # fmt: skip
    # CUDA's runtime is linked in and hidden, for torch brings one of its own.
    link = ['-shared', '-cudart=static', '-Xlinker=--exclude-libs,ALL', *link_options]
    lines = [
        f'common = {_quoted(common)}',
        'rule device',
        # What ptxas reports is kept for as long as the object is.
        f'  command = $common {_quoted(device)} -MD -MF $out.d -c $in -o $out > $out.log 2>&1'
        ' || { cat $out.log; exit 1; }',
        'rule host',
        f'  command = $common {_quoted(compile_options)} -MD -MF $out.d -c $in -o $out',
        'rule link',
        f'  command = $common $in -o $out {_quoted(link)}',
    ]
    for rule in (1, 3):
        lines[rule] += '\n  depfile = $out.d\n  deps = gcc\n  description = nvcc $in'
    objects = []
    for source in _sources():
        objects.append(f'{source.name}.o')
        rule = 'device' if source.suffix == '.cu' else 'host'
        lines.append(f'build {objects[-1]}: {rule} {_escaped(source)}')
    lines.append(f'build {LIBRARY}: link {" ".join(objects)}')
    return '\n'.join(lines) + '\n'


def _sources() -> list[Path]:
    return [*sorted(SOURCES.glob('cuda/*.cu')), SOURCES / 'torch/cuda.cpp']


def build(
    library: Path,
    nvcc: Nvcc,
    architectures: Sequence[str],
    compile_options: Sequence[str],
    link_options: Sequence[str],
    variables: Mapping[str, str] = os.environ,
) -> None:
    """Build the library.

    Args:
        library: Where to put it.
        nvcc: The compiler.
        architectures: What :func:`choose_architectures` returned.
        compile_options: For what includes torch.
        link_options: For torch's libraries.
        variables: Those of the environment: MAX_JOBS and CXX count.

    Raises:
        BuildError: If something does not compile, or ninja is missing.
    """
    print(f'natten_ops: building for CUDA {" ".join(architectures)} with {nvcc.path}', flush=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    text = _ninja_file(nvcc, architectures, compile_options, link_options, variables)
    (BUILD / 'build.ninja').write_text(text)
    ninja = shutil.which('ninja') or Path(sys.executable).with_name('ninja')
    try:
        subprocess.run([ninja, '-C', BUILD, f'-j{_jobs(variables)}'], check=True)
    except FileNotFoundError as error:
        raise BuildError(f'ninja is needed for CUDA and not installed; install it, {LEAVE_OUT}') from error
    except subprocess.CalledProcessError as error:
        raise BuildError(
            f'the CUDA library does not compile with {nvcc.path}, see above; correct that, {LEAVE_OUT}'
        ) from error
    logs = [(BUILD / f'{source.name}.o.log').read_text() for source in _sources() if source.suffix == '.cu']
    (BUILD / REPORT).write_text(''.join(logs))
    library.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(BUILD / LIBRARY, library)
