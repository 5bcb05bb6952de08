"""Measure what the time of the CPU kernels goes to: a table by phase.

The kernels are compiled anew, with timers around their phases, into a temporary folder, and called with one
thread. Every figure is a multiple of the time that a matrix product, measured in turns, takes for the same
multiply-adds: those of two products in the forward and of five in the backward, so that each would take 0.5
and 0.2 of that time. Tiles of columns whose windows are shifted, at borders, are in a column of their own.
Only for x86 processors, whose clock it reads.
"""

import argparse
import ctypes
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.lib.devices import Cpu
from benchmarks.lib.gemm import best_gemm
from benchmarks.lib.machine import describe_machine
from benchmarks.lib.options import CAPABILITIES, positive, restart_with
from benchmarks.lib.tables import Row, Table, print_head
from mmnat.errors import UserError, report_user_errors

ROOT = Path(__file__).resolve().parents[1]
#: Rows, columns, heads, head_dim, kernel_size.
CASES = [
    *((64, width, 2, 32, 7) for width in (304, 96, 127, 512)),
    *((64, 304, 2, head_dim, 7) for head_dim in (16, 64)),
    *((64, 304, 2, 32, kernel_size) for kernel_size in (3, 13)),
    (200, 304, 2, 32, 7),
]
# In the order of phases.h.
PHASES = (
    *('load', 'logits', 'softmax', 'weighted sum', 'grad of weights', 'weigh', 'grad of bias'),
    *('grad of query', 'grads of key and value', 'store'),
)
COLUMNS = {
    **dict(rows=5, columns=7, head_dim=8, kernel_size=11, direction=-9, phase=-23),
    **dict(milliseconds=12, inside=7, border=7),
}
DIRECTIONS = {'forward': 2, 'backward': 5}  # and their products


class Problem(ctypes.Structure):
    """``Problem`` of natten_ops/csrc/problem.h."""

    _fields_ = (
        ('batch', ctypes.c_int64),
        ('length', ctypes.c_int64 * 2),
        ('heads', ctypes.c_int64),
        ('head_dim', ctypes.c_int64),
        ('kernel_size', ctypes.c_int64 * 2),
        ('dilation', ctypes.c_int64 * 2),
        ('scale', ctypes.c_double),
    )


def build(folder: Path) -> ctypes.CDLL:
    """Compile the kernels with timers, as setup.py compiles them without, and load them.

    Raises:
        UserError: If the compiler fails.
    """
    sources = [*(ROOT / 'natten_ops/csrc/cpu').glob('*.cpp'), ROOT / 'benchmarks/lib/cpu_phases.cpp']
    compiler = (sysconfig.get_config_var('CXX') or 'c++').split()
    options = '-std=c++20 -O3 -fPIC -fwrapv -ffp-contract=fast -DNDEBUG -DNATTEN_OPS_PHASES -Wno-psabi'
    library = folder / 'phases.so'
    command = [*compiler, *options.split(), '-shared', '-o', str(library), *map(str, sources)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise UserError(f'the kernels cannot be compiled: {run.stderr[-2000:]}', 'see the message')
    loaded = ctypes.CDLL(str(library))
    loaded.run_kernels.restype = ctypes.c_int64
    loaded.ticks.restype = ctypes.POINTER(ctypes.c_uint64)
    loaded.capability.restype = ctypes.c_char_p
    return loaded


class Kernels:
    """The kernels of one case, with tensors for them.

    Args:
        library: What :func:`build` loaded.
        case: As in ``CASES``.
        dtype: float32 or bfloat16.
    """

    def __init__(self, library: ctypes.CDLL, case: Sequence[int], dtype: torch.dtype) -> None:
        rows, columns, heads, head_dim, size = case
        self.multiply_adds = rows * columns * heads * head_dim * size * size  # of one product
        self._library = library
        self._is_bfloat16 = int(dtype == torch.bfloat16)
        self._problem = Problem(1, (rows, columns), heads, head_dim, (size, size), (1, 1), head_dim**-0.5)
        self._tensors = [torch.randn(rows, columns, heads, head_dim).to(dtype) for _ in range(8)]
        pointers = [tensor.data_ptr() for tensor in self._tensors]
        self._pointers = (ctypes.c_void_p * len(pointers))(*pointers)
        bias_size = (2 * size - 1) ** 2
        lanes = 16  # that kernels may read behind the bias
        sums = library.run_kernels(
            ctypes.byref(self._problem), 1, self._is_bfloat16, None, None, None, None
        )
        self._arrays = [
            torch.randn(heads * bias_size + lanes),
            torch.empty(rows * columns * heads),
            torch.empty(sums * bias_size),
        ]
        for direction in DIRECTIONS:
            self.run(direction)

    def run(self, direction: str) -> tuple[float, list[int]]:
        """Run once. Returns seconds, and the clock's ticks of each phase, inside and at borders."""
        ticks = self._library.ticks()
        count = 2 * self._library.phases()
        for index in range(count):
            ticks[index] = 0
        arguments = (ctypes.c_void_p(array.data_ptr()) for array in self._arrays)
        start = time.perf_counter()
        self._library.run_kernels(
            ctypes.byref(self._problem),
            int(direction == 'backward'),
            self._is_bfloat16,
            self._pointers,
            *arguments,
        )
        return time.perf_counter() - start, [ticks[index] for index in range(count)]


def table_rows(seconds: float, ticks: Sequence[int], product: float) -> list[Row]:
    """Rows of the table: the sum, then the phases.

    Args:
        seconds: Of the kernels.
        ticks: Of the phases in them.
        product: Seconds that matrix products would take.
    """
    scale = seconds / product / sum(ticks)
    rows: list[Row] = [
        dict(phase='all', milliseconds=1e3 * seconds, inside=scale * sum(ticks[::2]))
        | dict(border=scale * sum(ticks[1::2]))
    ]
    for phase, inside, border in zip(PHASES, ticks[::2], ticks[1::2], strict=True):
        if inside or border:
            milliseconds = 1e3 * seconds * (inside + border) / sum(ticks)
            rows.append(
                dict(phase=phase, milliseconds=milliseconds, inside=scale * inside, border=scale * border)
            )
    return rows


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--cases', default=str(len(CASES)), help='how many of the cases; all')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    parser.add_argument('--repeats', default='7', help='runs, of which the fastest counts; 7')
    parser.add_argument(
        '--capability', choices=CAPABILITIES, help='instruction set; the best of the machine'
    )
    parser.add_argument('--out', type=Path, help='CSV file for the table')
    return parser.parse_args(argv)


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    args = parse_args(argv)
    cases, repeats = positive('--cases', args.cases), positive('--repeats', args.repeats)
    restart_with(args.capability)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
    gemm, _ = best_gemm(Cpu())
    head = describe_machine([1], Cpu()) | {'kernels': library.capability().decode(), 'dtype': args.dtype}
    print_head(head)
    table = Table(list(COLUMNS), COLUMNS)
    for case in CASES[:cases]:
        kernels = Kernels(library, case, getattr(torch, args.dtype))
        described = dict(zip(COLUMNS, (case[0], case[1], case[3], case[4]), strict=False))
        for direction, products in DIRECTIONS.items():
            runs, rates = [], []
            for _ in range(repeats):
                rates.append(gemm.rate())
                runs.append(kernels.run(direction))
            product = products * 2e-9 * kernels.multiply_adds / max(rates)
            for row in table_rows(*min(runs), product):
                table.add(described | {'direction': direction} | row)
    if args.out:
        table.write(args.out, head)


if __name__ == '__main__':
    main()
