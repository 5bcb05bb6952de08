"""What a figure was measured with: the head of every CSV file."""

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from mmnat.environment import processor

from .devices import Device

ROOT = Path(__file__).parents[2]


def describe_machine(threads: list[int], device: Device) -> dict[str, str]:
    """Machine, software and command line, by name.

    Args:
        threads: The numbers of threads that were measured with.
        device: The device that was measured.
    """
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    facts = {
        'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'command': shlex.join(['python', '-m', _module(), *sys.argv[1:]]),
        'commit': _commit(),
        'processor': processor(),
        'cores': str(len(os.sched_getaffinity(0))),
        'threads': ' '.join(map(str, threads)),
        'instruction set': torch.backends.cpu.get_cpu_capability(),
        'memory': f'{memory / 2**30:.0f} GiB',
        'system': f'{platform.system()} {platform.machine()}',
        'python': platform.python_version(),
        'torch': torch.__version__,
        **(_gpu() if device.name == 'cuda' else {}),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _gpu() -> dict[str, str]:
    """The current CUDA device and its software, by name."""
    properties = torch.cuda.get_device_properties()
    return {
        'GPU': properties.name,
        'GPU memory': f'{properties.total_memory / 2**30:.0f} GiB',
        'multiprocessors': str(properties.multi_processor_count),
        'compute capability': f'{properties.major}.{properties.minor}',
        'driver': _first_line('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'),
        'clocks': _first_line(
            'nvidia-smi', '--query-gpu=clocks.max.sm,clocks.max.mem', '--format=csv,noheader'
        ),
        'CUDA of torch': torch.version.cuda,
        'natten_ops compiled for': torch.ops.natten_ops.cuda_architectures(),
        'triton': importlib.metadata.version('triton') if importlib.util.find_spec('triton') else '',
    }


def _module() -> str:
    """The module that runs, as ``python -m`` takes it."""
    program = Path(sys.argv[0]).resolve().with_suffix('')
    return '.'.join(program.relative_to(ROOT).parts) if program.is_relative_to(ROOT) else program.name


def _commit() -> str:
    """The commit of the source; empty if it is no git checkout."""
    return _first_line('git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=12')


def _first_line(*command: str) -> str:
    """The first line that a program prints; empty if it fails."""
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ''
    return output.partition('\n')[0].strip()
