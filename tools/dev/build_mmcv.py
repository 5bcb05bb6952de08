"""Build the wheel of mmcv for the torch of this Python, in groups of source files, and print its path.

Each of mmcv's 78 C++ files takes 8 seconds to compile, 7.5 of them for torch's headers. So the files are
included into four, which compile in a fifth of the time to the same operators. A group that does not
compile is split: another release of mmcv may define one name in two files. Finished wheels stay in the
user's cache folder, one for each torch, Python and kind of GPU.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from subprocess import PIPE, STDOUT

import torch
from torch.utils.cpp_extension import CUDA_HOME

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = ROOT / 'requirements/mmcv.txt'
FLAGS = '-O1 -g0'  # as fast as -O3, nms faster; debug information would take minutes
HEADERS = ('pytorch_cpp_helper.hpp', 'pytorch_device_registry.hpp')
# These files of mmcv/ops/csrc/pytorch/cpu define the same helpers, so each goes into another group.
APART = ('bezier_align', 'roi_align', 'roi_align_rotated', 'rotated_feature_align')


def cuda_variant() -> str:
    """What mmcv's operators are compiled for: 'cpu', the GPUs that are here, or 'cuda' if FORCE_CUDA=1."""
    if not torch.version.cuda or not CUDA_HOME:
        return 'cpu'
    gpus = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    names = ['sm{}{}'.format(*gpu) for gpu in sorted(gpus)]
    return '+'.join(names) or ('cuda' if os.environ.get('FORCE_CUDA') == '1' else 'cpu')


def wheel_key() -> str:
    """Names everything that a built wheel depends on."""
    version = re.search(r'==([\w.]+)', REQUIREMENT.read_text())[1]
    system = sysconfig.get_platform() + ''.join(platform.libc_ver())
    return f'{version}-torch{torch.__version__}-{sys.implementation.cache_tag}-{system}-{cuda_variant()}'


def unpack_source(folder: Path) -> Path:
    """Download and unpack the source; an unpacked one stays, and its compiled groups with it."""
    source = folder / 'source'
    if not source.exists():
        shutil.rmtree(folder, ignore_errors=True)
        options = ('--no-deps', '--no-binary', ':all:', '--no-build-isolation', '--require-hashes')
        pip = (sys.executable, '-m', 'pip', 'download', *options, '-r', REQUIREMENT, '-d', folder)
        subprocess.run(pip, check=True)
        shutil.unpack_archive(next(folder.glob('*.tar.gz')), folder / 'unpacked')
        make_groups(next((folder / 'unpacked').iterdir()) / 'mmcv/ops/csrc/pytorch')
        next((folder / 'unpacked').iterdir()).rename(source)
    return source


def make_groups(folder: Path) -> None:
    """Turn the C++ files in a source folder, and in its folder cpu, into four groups."""
    top, cpu = sorted(folder.glob('*.cpp')), sorted((folder / 'cpu').glob('*.cpp'))
    cpu.sort(key=lambda file: file.stem == 'psamask')  # last: it defines macros called min and max
    rest = [file for file in cpu if file.stem not in APART]
    groups = [top[::2], top[1::2], rest[::2], rest[1::2]]
    for group, file in zip(groups, (file for file in cpu if file.stem in APART), strict=False):
        group.insert(0, file)
    for file in (*top, *cpu):
        file.rename(file.with_suffix('.inc'))  # setup.py compiles whatever is called .cpp
    for number, group in enumerate(groups):
        names = [str(file.relative_to(folder).with_suffix('.inc')) for file in group]
        write_group(folder / f'group_{number}.cpp', names)


def write_group(path: Path, files: list[str]) -> None:
    """Write a source file that includes others."""
    path.write_text(''.join(f'#include "{name}"\n' for name in (*HEADERS, *files)))


def split_group(path: Path) -> bool:
    """Replace a group by its two halves; False if it holds one file only."""
    files = re.findall(r'"(.+\.inc)"', path.read_text())
    if len(files) < 2:
        return False
    write_group(path.with_name(f'{path.stem}a.cpp'), files[: len(files) // 2])
    write_group(path.with_name(f'{path.stem}b.cpp'), files[len(files) // 2 :])
    path.unlink()
    return True


def compile_wheel(source: Path, folder: Path) -> Path:
    """Compile a source tree; groups that do not compile are split until they do."""
    flags = {name: f'{os.environ.get(name, "")} {FLAGS}' for name in ('CFLAGS', 'CXXFLAGS')}
    variables = os.environ | flags
    if cuda_variant() == 'cpu':
        variables['CUDA_VISIBLE_DEVICES'] = ''  # mmcv would need nvcc for the GPUs that it finds
    command = (sys.executable, 'setup.py', 'bdist_wheel', '-d', str(folder))
    while True:
        done = subprocess.run(command, cwd=source, env=variables, stdout=PIPE, stderr=STDOUT)
        output = done.stdout.decode(errors='replace')
        print(output, flush=True)
        if done.returncode == 0:
            return next(folder.glob('*.whl'))
        failed = set(re.findall(r'^FAILED: .*?(group_\w+)\.o', output, re.MULTILINE))
        split = [split_group(source / f'mmcv/ops/csrc/pytorch/{name}.cpp') for name in sorted(failed)]
        if not any(split):
            shutil.rmtree(source)  # the next run begins anew
            raise SystemExit('error: mmcv does not compile, see above')


def main() -> None:
    """Take the wheel from the cache, or build it; print its path in the last line."""
    key = wheel_key()
    cache = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'mmnat/wheels' / key
    # One that was cut short has no end.
    wheel = next((wheel for wheel in cache.glob('*.whl') if zipfile.is_zipfile(wheel)), None)
    if wheel is None:
        folder = ROOT / 'build/mmcv' / key
        wheel = compile_wheel(unpack_source(folder), folder)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            part = cache / f'{wheel.name}.{os.getpid()}.part'
            shutil.copyfile(wheel, part)
            wheel = part.replace(cache / wheel.name)
            shutil.rmtree(folder)
        except OSError as error:
            print(f'note: the wheel of mmcv cannot be kept for other copies of the project: {error}')
    print(wheel, flush=True)


if __name__ == '__main__':
    main()
