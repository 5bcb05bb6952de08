"""Builds natten_ops' compiled library; everything else is in pyproject.toml.

The library is compiled against the stable ABI of torch, so one binary serves every torch from 2.10 on and
every Python. It is built against the torch of the environment it is installed into: with build isolation
that torch is not on the path, and is looked up in the environment's site-packages.
"""

import sys
import sysconfig
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
# The oldest torch whose stable ABI the library may use: 2.10.0, as torch/csrc/stable/version.h packs it.
TORCH_TARGET_VERSION = '0x020a000000000000'


def torch_build_helpers() -> tuple:
    """The CppExtension and BuildExtension of the torch in the environment being installed into."""
    sys.path.extend({sysconfig.get_path('purelib'), sysconfig.get_path('platlib')} - set(sys.path))
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ModuleNotFoundError as error:
        raise SystemExit(
            f'error: mmnat is compiled against the torch of your environment, but {error.name!r} is not'
            f' installed for {sys.executable}; install torch >= 2.10 first and, if pip still does not find'
            ' it, use `pip install --no-build-isolation .`'
        ) from error
    return CppExtension, BuildExtension


CppExtension, BuildExtension = torch_build_helpers()
sources = [
    ROOT / 'natten_ops/csrc/registration.cpp',
    *sorted((ROOT / 'natten_ops/csrc/cpu').glob('*.cpp')),
]
setup(
    ext_modules=[
        CppExtension(
            name='natten_ops._C',
            sources=[str(source.relative_to(ROOT)) for source in sources],
            extra_compile_args=[
                '-O3',
                '-g0',
                '-fopenmp-simd',
                '-fvisibility=hidden',
                f'-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}',
            ],
            py_limited_api=True,
        )
    ],
    cmdclass={'build_ext': BuildExtension},
    options={'bdist_wheel': {'py_limited_api': 'cp310'}},
)
