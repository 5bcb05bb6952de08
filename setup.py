"""Builds natten_ops' compiled library; everything else is in pyproject.toml.

The library is compiled against the stable ABI of torch, so one binary serves every torch from 2.10 on and
every Python. It is built against the torch of the environment it is installed into: with build isolation
that torch is not on the path, and is looked up in the environment's site-packages.
"""

import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
# The oldest torch whose stable ABI the library may use: 2.10.0, as torch/csrc/stable/version.h packs it.
TORCH_TARGET_VERSION = '0x020a000000000000'


def torch_build_helpers() -> tuple:
    """The CppExtension and BuildExtension of the torch in the environment being installed into."""
    sys.path.extend({sysconfig.get_path('purelib'), sysconfig.get_path('platlib')} - set(sys.path))
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
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
    return CppExtension, BuildExtension


CppExtension, BuildExtension = torch_build_helpers()
CSRC = ROOT / 'natten_ops/csrc'
OPTIONS, LINK_OPTIONS = ['-O3', '-g0'], []
if os.environ.get('NATTEN_OPS_SANITIZE', '0') == '1':  # for `make test-sanitize`, which has a folder for it
    LINK_OPTIONS = ['-fsanitize=address,undefined']
    OPTIONS = [*LINK_OPTIONS, '-fno-sanitize-recover=undefined', '-O1', '-g', '-fno-omit-frame-pointer']
    OPTIONS += ['-fno-wrapv']  # Python's own options define the overflow of signed integers


def relative(paths: Iterable[Path]) -> list[str]:
    """Sorted paths relative to this file, as setuptools wants them."""
    return sorted(str(path.relative_to(ROOT)) for path in paths)


setup(
    ext_modules=[
        CppExtension(
            name='natten_ops._C',
            sources=relative([CSRC / 'registration.cpp', *CSRC.glob('cpu/*.cpp')]),
            depends=relative(CSRC.rglob('*.h')),
            extra_compile_args=[
                *OPTIONS,
                '-ffp-contract=fast',
                '-Wno-psabi',
                '-Wno-maybe-uninitialized',
                '-fvisibility=hidden',
                f'-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}',
            ],
            extra_link_args=LINK_OPTIONS,
            py_limited_api=True,
        )
    ],
    cmdclass={'build_ext': BuildExtension},
    options={'bdist_wheel': {'py_limited_api': 'cp310'}},
)
