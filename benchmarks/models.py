"""Time neighborhood attention in modules and backbones against Swin Transformer's of mmdet.

Three tables, all of a batch of one image in float32:

- modules: NeighborhoodAttention2D and ShiftWindowMSA, each with its projections, on the same tokens and
  channels, at the four levels of NAT-Tiny. Swin's blocks alternate between windows and shifted windows, so
  it is the mean of both that is compared with.
- backbones: NAT-Tiny, DiNAT-Tiny and Swin-Tiny.
- profile: where the time of the backbones goes, by kind of operator (self CPU time of torch's profiler).

peak_mb is resident memory beyond the inputs (and parameters) at its peak in a fresh process, peak_extra_mb
that without outputs and gradients (benchmarks/lib/workload.py says how). ratio columns compare with Swin:
speed_to_swin is how many times as fast, memory_to_swin how many times the peak memory.
"""

import argparse
import dataclasses
import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.lib.devices import Device, get_device
from benchmarks.lib.gemm import Gemm, measure_gemm
from benchmarks.lib.machine import describe_machine
from benchmarks.lib.options import FOLDER, Parser, positive, restart_with, size, thread_counts
from benchmarks.lib.tables import Row, Table, print_head
from benchmarks.lib.timing import Timing, time_calls
from benchmarks.lib.workload import DIRECTIONS, Memory, Workload, peak_memory
from mmnat.atomic_file import check_writable
from mmnat.errors import UserError, report_user_errors

try:
    from benchmarks.lib.attention_modules import NEIGHBORHOOD, SWIN_SHIFTS, ModuleWorkload
    from benchmarks.lib.backbones import BACKBONES, SWIN, BackboneWorkload
    from benchmarks.lib.profiling import KINDS, by_kind, profile_call
except ModuleNotFoundError as error:
    MISSING: str | None = error.name
else:
    MISSING = None

FILES = {
    'modules': 'attention_module_cpu.csv',
    'backbones': 'backbone_cpu.csv',
    'profile': 'backbone_profile_cpu.csv',
}
# Channels, heads and strides of the levels of NAT-Tiny.
LEVELS = ((64, 2, 4), (128, 4, 8), (256, 8, 16), (512, 16, 32))
SWIN_MEAN = 'ShiftWindowMSA mean'
# Seconds for the repetitions of a row.
MODULE_BUDGET, BACKBONE_BUDGET = 1.5, 15.0
PROFILED_PASSES = 5
FIGURES = (
    'median_ms', 'min_ms', 'max_ms', 'repeats', 'gemm_gflop_per_s', 'peak_mb', 'peak_extra_mb',
    'speed_to_swin', 'memory_to_swin',
)  # fmt: skip
MODULE_COLUMNS = ('map', 'dim', 'heads', 'threads', 'direction', 'module', *FIGURES)
BACKBONE_COLUMNS = ('image', 'threads', 'direction', 'backbone', 'images_per_s', *FIGURES)
PROFILE_COLUMNS = (
    'image', 'threads', 'direction', 'backbone', 'kind', 'operator', 'calls', 'milliseconds', 'percent',
)  # fmt: skip
WIDTHS = {
    'map': 7, 'dim': 4, 'heads': 5, 'image': 9, 'threads': 7, 'direction': -16, 'module': -23,
    'backbone': -10, 'images_per_s': 12, 'median_ms': 9, 'min_ms': 9, 'max_ms': 9, 'peak_mb': 8,
    'peak_extra_mb': 13, 'speed_to_swin': 13, 'memory_to_swin': 14,
}  # fmt: skip


Measured = dict[str, tuple[Timing, Memory]]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__.partition('\n')[0])
    for name in FILES:
        parser.add_argument(f'--{name}', action='store_true', help='make this table; by default all')
    parser.add_argument('--image-size', default='800x1216', help='HxW of the image; by default 800x1216')
    parser.add_argument(
        '--out-dir',
        type=Path,
        default=FOLDER,
        help=f'the folder of the CSV files; by default {FOLDER}',
    )
    return parser.parse_args(argv)


def printed(columns: Sequence[str]) -> dict[str, int]:
    """The columns of a table that are printed, and their widths."""
    return {name: WIDTHS[name] for name in columns if name in WIDTHS}


@dataclass(frozen=True)
class Bench:
    """What all measurements of a run share.

    Attributes:
        device: How to measure.
        gemms: The matrix products to time beside, by number of threads.
        repeats: Timed repetitions, None for as many as fit.
        height: Of the image.
        width: Of the image.
    """

    device: Device
    gemms: Mapping[int, Gemm]
    repeats: int | None
    height: int
    width: int

    def settings(self) -> Iterator[tuple[str, int]]:
        """Directions and numbers of threads."""
        return itertools.product(DIRECTIONS, self.gemms)

    def measure(self, workloads: Mapping[str, Workload], threads: int, budget: float) -> Measured:
        """Time and memory of workloads of one direction that are compared with each other."""
        torch.set_num_threads(threads)
        calls = {name: workload.build().call(workload.direction) for name, workload in workloads.items()}
        timings = time_calls(calls, self.device, self.gemms[threads], self.repeats, budget)
        del calls
        return {name: (timings[name], peak_memory(load, threads)) for name, load in workloads.items()}


def mean(measured: Sequence[tuple[Timing, Memory]]) -> tuple[Timing, Memory]:
    """The mean of every figure."""
    timings, memories = (map(dataclasses.astuple, part) for part in zip(*measured, strict=True))
    timing, memory = (
        [statistics.mean(values) for values in zip(*part, strict=True)] for part in (timings, memories)
    )
    return Timing(*timing), Memory(*memory)


def figures(measured: tuple[Timing, Memory], swin: tuple[Timing, Memory]) -> Row:
    """The columns that say what came out."""
    (timing, memory), (swin_timing, swin_memory) = measured, swin
    return {
        'median_ms': 1e3 * timing.median,
        'min_ms': 1e3 * timing.minimum,
        'max_ms': 1e3 * timing.maximum,
        'repeats': timing.repeats,
        'gemm_gflop_per_s': timing.yardstick,
        'peak_mb': memory.peak / 1e6,
        'peak_extra_mb': memory.extra / 1e6,
        'speed_to_swin': swin_timing.median / timing.median,
        'memory_to_swin': memory.peak / swin_memory.peak,
    }


def measure_modules(bench: Bench) -> Table:
    """Attention modules, at the levels of NAT-Tiny."""
    table = Table(MODULE_COLUMNS, printed(MODULE_COLUMNS))
    for dim, heads, stride in LEVELS:
        height, width = -(-bench.height // stride), -(-bench.width // stride)
        for direction, threads in bench.settings():
            workloads = {
                name: ModuleWorkload(name, height, width, dim, heads, direction, bench.device.name)
                for name in (NEIGHBORHOOD, *SWIN_SHIFTS)
            }
            measured = bench.measure(workloads, threads, MODULE_BUDGET)
            measured[SWIN_MEAN] = mean([measured[name] for name in SWIN_SHIFTS])
            place = {'map': f'{height}x{width}', 'dim': dim, 'heads': heads}
            for name, result in measured.items():
                row = {**place, 'threads': threads, 'direction': direction, 'module': name}
                table.add({**row, **figures(result, measured[SWIN_MEAN])})
    return table


def measure_backbones(bench: Bench) -> Table:
    """Backbones over the image."""
    table = Table(BACKBONE_COLUMNS, printed(BACKBONE_COLUMNS))
    for direction, threads in bench.settings():
        workloads = backbone_workloads(bench, direction)
        measured = bench.measure(workloads, threads, BACKBONE_BUDGET)
        for name, (timing, memory) in measured.items():
            row = {'image': f'{bench.height}x{bench.width}', 'threads': threads, 'direction': direction}
            row |= {'backbone': name, 'images_per_s': 1 / timing.median}
            table.add({**row, **figures((timing, memory), measured[SWIN])})
    return table


def backbone_workloads(bench: Bench, direction: str) -> dict[str, BackboneWorkload]:
    """One workload per backbone."""
    return {
        name: BackboneWorkload(name, bench.height, bench.width, direction, bench.device.name)
        for name in BACKBONES
    }


def profile_backbones(bench: Bench) -> Table:
    """Operators of the backbones; printed are milliseconds by kind, and their part of all."""
    table = Table(PROFILE_COLUMNS, {})
    passes = PROFILED_PASSES if bench.repeats is None else bench.repeats
    kinds = Table((), {'backbone': -10, 'direction': -16, 'threads': 7, **{kind: 12 for kind in KINDS}})
    for direction, threads in bench.settings():
        torch.set_num_threads(threads)
        for name, workload in backbone_workloads(bench, direction).items():
            times = profile_call(workload.build().call(direction), passes)
            total = sum(time.milliseconds for time in times)
            row = {'threads': threads, 'direction': direction, 'backbone': name}
            for time in times:
                percent = 100 * time.milliseconds / total
                place = {'image': f'{bench.height}x{bench.width}', **row}
                table.add({**place, **dataclasses.asdict(time), 'percent': percent})
            sums = by_kind(times)
            kinds.add({**row, **{kind: f'{ms:.1f} {ms / total:.0%}' for kind, ms in sums.items()}})
    return table


MEASURE = {'modules': measure_modules, 'backbones': measure_backbones, 'profile': profile_backbones}


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the figures."""
    args = parse_args(argv)
    device = get_device(args.device, known=('cpu',))
    height, width = size('--image-size', args.image_size)
    threads = thread_counts(args.threads)
    repeats = None if args.repeats is None else positive('--repeats', args.repeats)
    if MISSING is not None:
        raise UserError(f'the comparison needs {MISSING}, which is not installed', 'install mmdet')
    names = [name for name in FILES if getattr(args, name)] or list(FILES)
    paths = {name: args.out_dir / FILES[name] for name in names}
    for path in paths.values():
        check_writable(path)
    restart_with(args.capability)

    for name, path in paths.items():
        gemms, peaks = measure_gemm(device, threads, 'begin')
        head = describe_machine(threads, device) | peaks
        print_head(head)
        table = MEASURE[name](Bench(device, gemms, repeats, height, width))
        _, peaks = measure_gemm(device, threads, 'end')
        table.write(path, head | peaks)


if __name__ == '__main__':
    main()
