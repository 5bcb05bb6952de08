"""Check and time the operator on a GPU, row by row: what benchmarks/gpu_report.sh runs.

Every row is written as soon as it is measured, so that what is killed loses none. The check takes its
problems from the tests, which gpu_report.sh puts on the path.
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.lib.cases import Case
from benchmarks.lib.devices import Cuda
from benchmarks.lib.gpu import describe, kernel_times, median_seconds, row_writer, tf32
from benchmarks.lib.operators import COMPUTATIONS, OperatorWorkload
from benchmarks.lib.workload import DIRECTIONS, TRAINING

# Height, width, heads and dilation of NAT-Tiny's levels at 800x1216, the largest and the smallest first.
MAPS = (
    (200, 304, 2, 1),
    (25, 38, 16, 1),
    (100, 152, 4, 1),
    (50, 76, 8, 1),
    (200, 304, 2, 28),
    (25, 38, 16, 3),
)
BATCH, HEAD_DIM, KERNEL_SIZE = 16, 32, 7
# Heads, head_dim and kernel size of other windows, at 100x152.
OTHERS = ((4, 32, 13), (4, 32, 9), (2, 64, 7), (1, 128, 7))
REPEATS = 15
WHAT = (
    f'{BATCH} maps, head_dim {HEAD_DIM}, kernel {KERNEL_SIZE}, with bias; medians of {REPEATS},'
    ' cold cache; gb_per_s counts the bytes that have to be read and written'
)


def seconds(call: Callable[[], object]) -> float:
    """Median time of a call, once warm, on the device alone."""
    return median_seconds(call, Cuda().seconds, REPEATS)


def check_results() -> None:
    """Compare some problems with float64, twice with the same bits."""
    from attention import Problem
    from on_gpu import assert_equal, check, draw, run

    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for spatial, size, dilation in (
            ((50, 76), 7, 1),
            ((25, 38), 7, 3),
            ((40, 44), 13, 1),
            ((9, 9), 7, 1),
        ):
            layouts = ('fused', 'fused', 'fused', 'contiguous')
            window = (size,) * 2, (dilation,) * 2
            problem = Problem(2, spatial, 2, HEAD_DIM, *window, dtype, torch.float32, layouts)
            for allowed in (contextlib.nullcontext, tf32)[: 2 if dtype == torch.float32 else 1]:
                with allowed():
                    check(problem)
                    drawn = draw(problem)
                    assert_equal(run(problem, *drawn), run(problem, *drawn))
                print('right:', problem, 'with TF32' * (allowed is tf32), flush=True)


def time_copies(emit: Callable[..., None]) -> None:
    """Bandwidth of copies: a large one, and as much as the largest and the smallest map have to move."""
    for count in (2**31, 498 * 10**6, 62 * 10**6):
        source = torch.randint(256, (count // 2,), dtype=torch.uint8, device='cuda')
        target = torch.empty_like(source)
        took = seconds(lambda target=target, source=source: target.copy_(source))
        emit(copied_bytes=count, gb_per_s=round(count / took / 1e9))


def time_operators(emit: Callable[..., None], names: list[str]) -> None:
    """Times of implementations, forward and with backward, in float16; of ours, float32, too."""
    for height, width, heads, dilation in MAPS:
        for name in names:
            if dilation > 1 and name != 'natten_ops':
                continue
            case = Case(height, width, heads, HEAD_DIM, BATCH, KERNEL_SIZE, dilation, 'float16', 'cuda')
            time_operator(emit, name, case)
            if name == 'natten_ops' and dilation == 1:
                exact = dataclasses.replace(case, dtype='float32')
                time_operator(emit, name, exact)
                with tf32():
                    time_operator(emit, name, exact, 'float32 by TF32')
    for heads, head_dim, kernel_size in OTHERS:
        if 'natten_ops' in names:
            case = Case(100, 152, heads, head_dim, BATCH, kernel_size, 1, 'float16', 'cuda')
            time_operator(emit, 'natten_ops', case)


def time_operator(emit: Callable[..., None], name: str, case: Case, label: str | None = None) -> None:
    """Times of an implementation and of our kernels; ``label`` names the dtype."""
    for direction in DIRECTIONS:
        row = dict(implementation=name, feature_map=f'{case.height}x{case.width}x{case.heads}')
        row |= dict(dilation=case.dilation, dtype=label or case.dtype, direction=direction)
        if (case.head_dim, case.kernel_size) != (HEAD_DIM, KERNEL_SIZE):
            row |= dict(head_dim=case.head_dim, kernel_size=case.kernel_size)
        try:
            call = OperatorWorkload(case, name, direction).build().call(direction)
            took = seconds(call)
        except RuntimeError as error:  # a peer that does not run has a row, too
            emit(**row, failed=str(error)[:200])
            continue
        rate = case.necessary_bytes(direction) / took / 1e9
        row |= dict(microseconds=round(took * 1e6, 1), gb_per_s=round(rate))
        if name == 'natten_ops':
            times = {kernel.name[:90]: round(kernel.microseconds, 1) for kernel in kernel_times(call)}
            row |= dict(kernels_microseconds=times)
        emit(**row)


def run_once() -> None:
    """One step on the largest map, for a profiler."""
    case = Case(*MAPS[0][:3], HEAD_DIM, BATCH, KERNEL_SIZE, 1, 'float16', 'cuda')
    OperatorWorkload(case, 'natten_ops', TRAINING).build().call(TRAINING)()


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        'what', nargs='+', choices=['check', 'once', *COMPUTATIONS], help='what to run, or to time'
    )
    parser.add_argument('--out', type=Path, help='append rows to this file, a JSON object each')
    args = parser.parse_args()

    if args.what == ['check']:
        check_results()
    elif args.what == ['once']:
        run_once()
    else:
        emit = row_writer(args.out)
        emit(**describe('bash benchmarks/gpu_report.sh', WHAT))
        time_copies(emit)
        time_operators(emit, args.what)


if __name__ == '__main__':
    main()
