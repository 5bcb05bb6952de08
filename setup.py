"""Builds natten_ops' compiled libraries; everything else is in pyproject.toml.

There is one for the CPU and, if torch has CUDA, one more for CUDA (tools/dev/setup_cuda.py). They are
compiled against the stable ABI of torch, so one binary serves every torch from 2.10 on and every Python.
They are built against the torch of the environment they are installed into: with build isolation that
torch is not on the path, and is looked up in the environment's site-packages.
"""

import importlib.util
import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).parent


def load_setup_cuda() -> ModuleType:
    """The module tools/dev/setup_cuda.py, which is no part of an installed package."""
    spec = importlib.util.spec_from_file_location('setup_cuda', ROOT / 'tools/dev/setup_cuda.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for it
    spec.loader.exec_module(module)
    return module


setup_cuda = load_setup_cuda()

# The oldest torch whose stable ABI the library may use: 2.10.0, as torch/csrc/stable/version.h packs it.
TORCH_TARGET_VERSION = '0x020a000000000000'


def find_torch() -> tuple:
    """The torch in the environment being installed into, and its torch.utils.cpp_extension."""
    for folder in {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}:
        site.addsitedir(folder)
    try:
        import torch
        import torch.utils.cpp_extension
    except ModuleNotFoundError as error:
        raise SystemExit(
            f'error: mmnat is compiled against the torch of your environment, but {error.name!r} is not'
            f' installed for {sys.executable}; install torch >= 2.10 first and, if pip still does not find'
            ' it, setuptools, wheel and ninja as well and use `pip install --no-build-isolation .`'
        ) from error
    if torch.__version__ < '2.10':
        raise SystemExit(
            f'error: mmnat needs torch >= 2.10, but {sys.executable} has {torch.__version__};'
            ' update torch first'
        )
    return torch, torch.utils.cpp_extension


torch, cpp_extension = find_torch()
CSRC = ROOT / 'natten_ops/csrc'
OPTIONS, LINK_OPTIONS = ['-O3', '-g0'], []
SANITIZE = os.environ.get('NATTEN_OPS_SANITIZE', '0') == '1'  # for `make test-sanitize`, in its own folder
if SANITIZE:
    LINK_OPTIONS = ['-fsanitize=address,undefined']
    OPTIONS = [*LINK_OPTIONS, '-fno-sanitize-recover=undefined', '-O1', '-g', '-fno-omit-frame-pointer']
    OPTIONS += ['-fno-wrapv']  # Python's own options define the overflow of signed integers


def relative(paths: Iterable[Path]) -> list[str]:
    """Sorted paths relative to this file, as setuptools wants them."""
    return sorted(str(path.relative_to(ROOT)) for path in paths)


TORCH_OPTIONS = [f'-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}']
CUDA_NAME = 'natten_ops._CUDA'


def choose_cuda() -> tuple[setup_cuda.Nvcc | None, list[str]]:
    """The compiler for CUDA, None if CUDA is left out, and what to compile for."""
    if SANITIZE:  # the sanitizers are for the CPU's kernels
        return None, []
    try:
        nvcc = setup_cuda.choose_nvcc(torch.version.cuda is not None)
        if nvcc is None:
            return None, []
        visible = []
        if os.environ.get('NATTEN_OPS_CUDA') != '1':  # which is for all devices
            visible = [torch.cuda.get_device_capability(gpu) for gpu in range(torch.cuda.device_count())]
        wanted = os.environ.get('TORCH_CUDA_ARCH_LIST', '')
        return nvcc, setup_cuda.choose_architectures(nvcc, wanted, visible)
    except setup_cuda.BuildError as error:
        raise SystemExit(f'error: {error}') from None


NVCC, ARCHITECTURES = choose_cuda()


class BuildLibraries(cpp_extension.BuildExtension):
    """Builds the CPU's library as torch does, and CUDA's, which torch builds only if it has CUDA itself."""

    def run(self) -> None:
        """Build; a CUDA library of an earlier build does not stay behind if there is no new one."""
        super().run()
        if NVCC is None:
            for folder in (self.build_lib, *([ROOT] if self.inplace else [])):
                (Path(folder) / 'natten_ops' / setup_cuda.LIBRARY).unlink(missing_ok=True)

    def build_extension(self, extension: Extension) -> None:
        """Build one library."""
        if extension.name != CUDA_NAME:
            super().build_extension(extension)
            return
        include = [f'-isystem={path}' for path in cpp_extension.include_paths()]
        folders = [f'-L{path}' for path in cpp_extension.library_paths()]
        # torch's headers may use what torch itself is written in.
        standard = f'-std=c++{20 if torch.__version__ >= "2.13" else 17}'
        try:
            setup_cuda.build(
                Path(self.get_ext_fullpath(extension.name)),
                NVCC,
                ARCHITECTURES,
                compile_options=[standard, *TORCH_OPTIONS, *include],
                # libtorch.so loads what torch consists of, which here may lack the libraries for CUDA.
                link_options=[*folders, '-Xlinker=--no-as-needed', '-ltorch', '-ltorch_cpu'],
            )
        except setup_cuda.BuildError as error:
            raise SystemExit(f'error: {error}') from None


class BuildPython(build_py):
    """Puts configs, metafiles and tools where mim and mmengine look for them: in mmnat/.mim."""

    def run(self) -> None:
        """Copy the packages, then what belongs to them; an editable installation gets links."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)  # modules of an earlier build that are gone
        super().run()
        if self.editable_mode:
            target = ROOT / 'mmnat/.mim'
            target.mkdir(exist_ok=True)
            for name in ('configs', 'tools', 'model-index.yml'):
                (target / name).unlink(missing_ok=True)
                (target / name).symlink_to(Path('../..') / name)
            return
        target = Path(self.build_lib) / 'mmnat/.mim'
        shutil.copytree(ROOT / 'configs', target / 'configs', ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copytree(
            ROOT / 'tools', target / 'tools', ignore=shutil.ignore_patterns('__pycache__', 'dev')
        )
        shutil.copy(ROOT / 'model-index.yml', target)


class EggInfo(egg_info):
    """Names mmnat first among the distribution's packages: mmengine looks for ``.mim`` in the first one."""

    def write_file(self, what: str, filename: str, data: str) -> None:
        """Write a file of the metadata."""
        if what == 'top-level names':
            data = '\n'.join(sorted(data.split(), key=lambda name: (name != 'mmnat', name))) + '\n'
        super().write_file(what, filename, data)


EXTENSIONS = [
    cpp_extension.CppExtension(
        name='natten_ops._C',
        sources=relative([CSRC / 'torch/schema.cpp', CSRC / 'torch/cpu.cpp', *CSRC.glob('cpu/*.cpp')]),
        depends=relative([*CSRC.rglob('*.h'), *CSRC.rglob('*.inl')]),
        extra_compile_args=[
            *OPTIONS,
            '-ffp-contract=fast',
            '-Wno-psabi',
            '-Wno-maybe-uninitialized',
            '-fvisibility=hidden',
            *TORCH_OPTIONS,
        ],
        extra_link_args=LINK_OPTIONS,
        py_limited_api=True,
    )
]
if NVCC is not None:
    EXTENSIONS.append(Extension(CUDA_NAME, sources=[], py_limited_api=True))

setup(
    ext_modules=EXTENSIONS,
    cmdclass={'build_ext': BuildLibraries, 'build_py': BuildPython, 'egg_info': EggInfo},
    options={'bdist_wheel': {'py_limited_api': 'cp310'}},
)
