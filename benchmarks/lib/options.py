"""The command line that the benchmarks share."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from mmnat.errors import UserError

#: Where the figures are kept.
FOLDER = Path('benchmarks/results')
# The flag in /proc/cpuinfo that torch's capability of this name needs.
_CPU_FLAGS = {'default': None, 'avx2': 'avx2', 'avx512': 'avx512vl'}
#: The instruction sets that ``--capability`` takes.
CAPABILITIES = tuple(_CPU_FLAGS)
_CAPABILITY = 'ATEN_CPU_CAPABILITY'


class Parser(argparse.ArgumentParser):
    """A parser with the options of all benchmarks, whose errors are one line."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description)
        self.add_argument('--threads', nargs='+', help="numbers of threads; by default torch's own")
        self.add_argument(
            '--repeats', help='timed repetitions of a row; by default as many as fit in seconds'
        )
        self.add_argument(
            '--capability',
            choices=CAPABILITIES,
            help='instruction set for torch and natten_ops; by default the best of the machine',
        )
        self.add_argument('--device', default='cpu', help='where to measure: cpu, the default, or cuda')

    def error(self, message: str) -> NoReturn:
        """Report a mistake in the form of the other mistakes."""
        raise UserError(message, 'see --help')


def positive(option: str, text: str) -> int:
    """The positive int that an option was given; raises UserError for anything else."""
    if not re.fullmatch(r'0*[1-9]\d*', text):
        raise UserError(f'{option} must be a positive int, got {text!r}', 'correct it')
    return int(text)


def numbers(option: str, texts: Sequence[str]) -> list[int]:
    """The positive ints that an option was given; raises UserError for anything else."""
    return [positive(option, text) for text in texts]


def size(option: str, text: str) -> tuple[int, int]:
    """The height and width that an option was given as ``HxW``; raises UserError for anything else."""
    if not re.fullmatch(r'\d+x\d+', text):
        raise UserError(f'{option} must be HxW, e.g. 800x1216, got {text!r}', 'correct it')
    height, width = (positive(option, side) for side in text.split('x'))
    return height, width


def thread_counts(texts: Sequence[str] | None) -> list[int]:
    """The values of ``--threads``.

    Raises:
        UserError: If one is no positive int, or more than the processors that may be used.
    """
    if texts is None:
        return [torch.get_num_threads()]
    counts = numbers('--threads', texts)
    processors = len(os.sched_getaffinity(0))
    if max(counts) > processors:
        raise UserError(f'--threads must be at most {processors} here, got {max(counts)}', 'lower it')
    return counts


def restart_with(capability: str | None) -> None:
    """Start this program again with the instruction set, which torch reads once, when it is loaded.

    Raises:
        UserError: If the processor lacks it.
    """
    if capability is None or os.environ.get(_CAPABILITY) == capability:
        return
    flag = _CPU_FLAGS[capability]
    if flag is not None and flag not in Path('/proc/cpuinfo').read_text().split():
        raise UserError(
            f'--capability {capability} needs {flag}, which this processor lacks', 'leave it out'
        )
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _CAPABILITY: capability})
