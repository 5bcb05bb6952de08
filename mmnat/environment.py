"""What runs here: versions, kernels and devices. The first thing to put in a bug report."""

import os
import platform
import re
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: Packages by their import name, with the distributions that may provide them: the original first, then the
#: maintained continuation.
_PACKAGES = {
    'mmengine': ('mmengine', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'onedl-mmcv', 'mmcv-lite'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
}


def describe_environment() -> dict[str, str]:
    """Versions of this project, Python, torch and OpenMMLab, and which kernels compute here, by name.

    If something falls back to the PyTorch reference, the value says why.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # what is said here about the libraries is said below
        from natten_ops import __version__, dispatch
    cuda = torch.version.cuda
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        'mmnat': f'{__version__} ({Path(__file__).parent})',
        'python': f'{platform.python_version()} ({sys.executable})',
        'platform': platform.platform(),
        'processor': processor(),
        'cores': str(len(os.sched_getaffinity(0))),
        'torch': torch.__version__ + (f', CUDA {cuda}' if cuda else ', without CUDA'),
        'GPUs': ', '.join(gpus) or 'none',
        **{name: _installed(distributions) for name, distributions in _PACKAGES.items()},
        'kernels, CPU': _cpu_kernels(dispatch.CPU_PROBLEM),
        'kernels, CUDA': _cuda_kernels(dispatch.CUDA_PROBLEM),
    }


def processor() -> str:
    """The processor's name, with family and model: virtual machines shorten the name."""
    try:
        text = Path('/proc/cpuinfo').read_text()
    except OSError:
        return platform.processor()
    facts = dict(re.findall(r'^(model name|cpu family|model)\s*: (.+)$', text, re.MULTILINE))
    name = facts.get('model name', platform.processor())
    return (
        f'{name}, family {facts["cpu family"]}, model {facts["model"]}' if 'cpu family' in facts else name
    )


def _installed(distributions: tuple[str, ...]) -> str:
    found = []
    for distribution in distributions:
        try:
            found.append(f'{version(distribution)} ({distribution})')
        except PackageNotFoundError:
            continue
    return ' and '.join(found) or 'not installed'  # both write the same folder: worth seeing


def _cpu_kernels(problem: str) -> str:
    import torch

    if problem:
        return f'none, the PyTorch reference computes: {problem}'
    return f'compiled, using {torch.ops.natten_ops.cpu_capability()}'


def _cuda_kernels(problem: str) -> str:
    import torch

    if problem:
        return f'none: {problem}'
    return f'compiled for {torch.ops.natten_ops.cuda_architectures()}'
