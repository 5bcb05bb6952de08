"""Time neighborhood attention, and what else could take its place, against what the machine can do.

A row of the CSV file is one implementation of one case. Work and necessary traffic are those of
neighborhood attention over the case, whatever an implementation computes beside it: 4 * tokens * heads *
head_dim * kernel_size ** 2 operations forward, 3.5 times as many with backward; 4 tensors of query's size
forward, 12 with backward. peak_extra_mb is memory beyond inputs, outputs and gradients, at its peak in a
fresh process (benchmarks/lib/workload.py says how). Inputs are views of one projection; backward computes
all gradients, the bias's too.

On the CPU, ratio_to_gemm is the median time over the time that as many operations take in matrix products,
in float32 whatever the dtype, which are timed between the repetitions. On CUDA, percent_of_copy is the rate
of the necessary traffic, of that of a copy within the device's memory which is timed between the
repetitions; times are those of the device, between events (benchmarks/lib/devices.py).

Peers are window attention as in Swin Transformer, with as many keys, if dilation is 1; and for kernel
size 7, dilation 1, head_dim 32 and on the CPU batch 1 and float32, on CUDA batch 16 and float16, the
PyTorch reference, compiled FlexAttention and the natten package. If a peer fails, takes too long or too
much memory, its row says so.
"""

import argparse
import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.lib.cases import Case
from benchmarks.lib.devices import Device, get_device
from benchmarks.lib.machine import describe_machine
from benchmarks.lib.operators import OperatorWorkload, check_kernels
from benchmarks.lib.options import FOLDER, Parser, numbers, positive, restart_with, size, thread_counts
from benchmarks.lib.process import NotRun
from benchmarks.lib.tables import Row, Table, print_head
from benchmarks.lib.timing import Timing, time_calls
from benchmarks.lib.workload import DIRECTIONS, Memory, measure_peer, peak_memory
from benchmarks.lib.yardsticks import Yardstick, measure_yardsticks
from mmnat.atomic_file import check_writable
from mmnat.errors import UserError, report_user_errors

# The levels of NAT-Tiny: heads, and stride of the feature map.
LEVELS = ((2, 4), (4, 8), (8, 16), (16, 32))
INPUTS = {'coco': (800, 1216), 'ade20k': (512, 512)}
DTYPES = ('float32', 'bfloat16', 'float16')
LARGEST = 'largest'
# What is measured if an option is left out: maps, kernel sizes, head_dims, batches and dtypes.
USUAL = {
    'cpu': (list(INPUTS), ['7', '13'], ['32', '64'], ['1', '4'], ['float32']),
    'cpu, quick': (['coco'], ['7'], ['32'], ['1'], ['float32']),
    'cuda': (['coco'], ['7'], ['32'], ['16'], ['float16']),
}
WINDOWS = ['swin-sdpa', 'swin-matmul']
# Kernel size, dilation, batch, head_dim and dtype of the cases for which all peers are measured.
PEER_SETTINGS = {'cpu': (7, 1, 1, 32, 'float32'), 'cuda': (7, 1, 16, 32, 'float16')}
# Seconds for the repetitions of a row.
BUDGET = 1.0
COLUMNS = (
    'map', 'heads', 'head_dim', 'batch', 'kernel_size', 'dilation', 'dtype', 'threads', 'direction',
    'implementation', 'median_ms', 'min_ms', 'max_ms', 'repeats', 'gflop', 'gflop_per_s',
    'gemm_gflop_per_s', 'ratio_to_gemm', 'necessary_mb', 'gb_per_s', 'copy_gb_per_s', 'percent_of_copy',
    'peak_extra_mb', 'note',
)  # fmt: skip
WIDTHS = {
    'map': 7, 'heads': 5, 'head_dim': 8, 'batch': 5, 'kernel_size': 11, 'dilation': 8, 'dtype': 8,
    'threads': 7, 'direction': -16, 'implementation': -14, 'median_ms': 9, 'min_ms': 9, 'max_ms': 9,
    'ratio_to_gemm': 13, 'gflop_per_s': 11, 'gb_per_s': 8, 'percent_of_copy': 15, 'peak_extra_mb': 13,
    'note': -1,
}  # fmt: skip
# What is not printed, for it is empty or always the same.
UNPRINTED = {'cpu': {'percent_of_copy'}, 'cuda': {'threads', 'ratio_to_gemm'}}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__.partition('\n')[0])
    parser.add_argument(
        '--quick',
        action='store_true',
        help='on the CPU, by default measure as little as on CUDA, and batch 1',
    )
    parser.add_argument(
        '--maps',
        nargs='+',
        help='coco, ade20k (the levels of NAT-Tiny), or HxWxHEADS; by default both, on CUDA coco',
    )
    parser.add_argument(
        '--kernel-size', nargs='+', help='keys in a window on each axis; by default 7 and 13, on CUDA 7'
    )
    parser.add_argument(
        '--dilation',
        nargs='+',
        help="ints or 'largest' that fits; by default 1, and for kernel size 7 both",
    )
    parser.add_argument(
        '--head-dim', nargs='+', help='channels of a head; by default 32 and 64, on CUDA 32'
    )
    parser.add_argument('--batch', nargs='+', help='feature maps; by default 1 and 4, on CUDA 16')
    parser.add_argument(
        '--dtype', nargs='+', choices=DTYPES, help='of all tensors; by default float32, on CUDA float16'
    )
    parser.add_argument(
        '--peers',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='measure not only natten_ops, which is the default',
    )
    parser.add_argument(
        '--out',
        type=Path,
        help=f'the CSV file; by default operator_cpu.csv or operator_cuda.csv in {FOLDER}',
    )
    return parser.parse_args(argv)


def list_cases(args: argparse.Namespace) -> list[Case]:
    """The cases that the options name.

    Raises:
        UserError: If an option is no valid value, or a window does not fit its map.
    """
    usual = USUAL['cpu, quick' if args.quick and args.device == 'cpu' else args.device]
    given = (args.maps, args.kernel_size, args.head_dim, args.batch, args.dtype)
    maps, *texts, dtypes = (wanted or default for wanted, default in zip(given, usual, strict=True))
    options = ('--kernel-size', '--head-dim', '--batch')
    kernel_sizes, head_dims, batches = map(numbers, options, texts)
    cases = []
    for name, dtype, head_dim, batch in itertools.product(maps, dtypes, head_dims, batches):
        for (height, width, heads), kernel_size in itertools.product(list_maps(name), kernel_sizes):
            largest = min(height, width) // kernel_size
            for dilation in list_dilations(args.dilation, kernel_size, largest):
                if dilation > largest:
                    raise UserError(
                        f'a window of kernel size {kernel_size} and dilation {dilation} needs a map of'
                        f' {kernel_size * dilation} tokens on each side, got {height}x{width}',
                        'choose smaller ones',
                    )
                cases.append(
                    Case(height, width, heads, head_dim, batch, kernel_size, dilation, dtype, args.device)
                )
    return cases


def list_maps(name: str) -> list[tuple[int, int, int]]:
    """Height, width and heads of the maps that one value of ``--maps`` names."""
    if name in INPUTS:
        height, width = INPUTS[name]
        return [(height // stride, width // stride, heads) for heads, stride in LEVELS]
    if not re.fullmatch(r'\d+x\d+x\d+', name):
        raise UserError(
            f'--maps must be {", ".join(INPUTS)} or HxWxHEADS, e.g. 200x304x2, got {name!r}', 'correct it'
        )
    tokens, _, heads = name.rpartition('x')
    return [(*size('--maps', tokens), positive('--maps', heads))]


def list_dilations(texts: Sequence[str] | None, kernel_size: int, largest: int) -> list[int]:
    """The dilations for a kernel size, each once."""
    if texts is None:
        texts = ['1', LARGEST] if kernel_size == 7 else ['1']
    dilations = (max(largest, 1) if text == LARGEST else positive('--dilation', text) for text in texts)
    return list(dict.fromkeys(dilations))


def interleaved(case: Case, peers: bool) -> list[str]:
    """The implementations of a case that are timed in turns, for they are compared closely."""
    return ['natten_ops', *(WINDOWS if peers and case.dilation == 1 and case.device == 'cpu' else [])]


def guarded(case: Case, peers: bool) -> list[str]:
    """The implementations of a case that are measured apart, for they may fail or take long."""
    if not peers:
        return []
    settings = case.kernel_size, case.dilation, case.batch, case.head_dim, case.dtype
    return [
        *(WINDOWS if case.dilation == 1 and case.device != 'cpu' else []),
        *(['reference', 'flex_attention', 'natten'] if settings == PEER_SETTINGS[case.device] else []),
    ]


def measure(
    case: Case,
    direction: str,
    threads: int,
    device: Device,
    yardstick: Yardstick,
    repeats: int | None,
    peers: bool,
) -> Iterator[tuple[str, Timing | None, Memory | None, str]]:
    """Measure the implementations of a case; gives name, time, memory and a note on them."""
    workloads = {name: OperatorWorkload(case, name, direction) for name in interleaved(case, peers)}
    calls = {name: workload.build().call(direction) for name, workload in workloads.items()}
    timings = time_calls(calls, device, yardstick, repeats, BUDGET)
    del calls
    if device.name == 'cuda':
        device.reset_peak()  # the other processes need the memory
    for name, workload in workloads.items():
        try:
            yield name, timings[name], peak_memory(workload, threads), ''
        except NotRun as reason:
            yield name, timings[name], None, f'memory not measured: {reason}'
    for name in guarded(case, peers):
        workload = OperatorWorkload(case, name, direction)
        try:
            yield name, *measure_peer(workload, threads, yardstick, repeats, BUDGET)
        except NotRun as reason:
            yield name, None, None, f'not run: {reason}'


def describe(case: Case, direction: str) -> Row:
    """The columns that say what was measured."""
    names = ('heads', 'head_dim', 'batch', 'kernel_size', 'dilation', 'dtype')
    return {
        'map': f'{case.height}x{case.width}',
        **{name: value for name, value in dataclasses.asdict(case).items() if name in names},
        'direction': direction,
        'gflop': case.gflop(direction),
        'necessary_mb': case.necessary_bytes(direction) / 1e6,
    }


def figures(case: Case, direction: str, timing: Timing, memory: Memory | None) -> Row:
    """The columns that say what came out."""
    rate = case.gflop(direction) / timing.median
    traffic = case.necessary_bytes(direction) / timing.median / 1e9
    if case.device == 'cpu':
        compared = {'gemm_gflop_per_s': timing.yardstick, 'ratio_to_gemm': timing.yardstick / rate}
    else:
        compared = {
            'copy_gb_per_s': timing.yardstick,
            'percent_of_copy': 100 * traffic / timing.yardstick,
        }
    return {
        'median_ms': 1e3 * timing.median,
        'min_ms': 1e3 * timing.minimum,
        'max_ms': 1e3 * timing.maximum,
        'repeats': timing.repeats,
        'gflop_per_s': rate,
        'gb_per_s': traffic,
        **compared,
        'peak_extra_mb': None if memory is None else memory.extra / 1e6,
    }


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the figures."""
    args = parse_args(argv)
    device = get_device(args.device)
    check_kernels(device.name)
    cases = list_cases(args)
    threads = thread_counts(args.threads)
    repeats = None if args.repeats is None else positive('--repeats', args.repeats)
    path = args.out or FOLDER / f'operator_{device.name}.csv'
    check_writable(path)
    restart_with(args.capability)

    yardsticks, peaks = measure_yardsticks(device, threads, 'begin')
    head = describe_machine(threads, device) | peaks
    print_head(head)
    unprinted = UNPRINTED[device.name]
    table = Table(COLUMNS, {name: width for name, width in WIDTHS.items() if name not in unprinted})
    for case, direction, count in itertools.product(cases, DIRECTIONS, threads):
        torch.set_num_threads(count)
        measured = measure(case, direction, count, device, yardsticks[count], repeats, args.peers)
        for name, timing, memory, note in measured:
            row = {**describe(case, direction), 'threads': count, 'implementation': name, 'note': note}
            table.add(row if timing is None else {**row, **figures(case, direction, timing, memory)})
    _, peaks = measure_yardsticks(device, threads, 'end')
    table.write(path, head | peaks)


if __name__ == '__main__':
    main()
