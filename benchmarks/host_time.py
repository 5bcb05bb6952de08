"""Measure the host's time of a call on a tiny feature map, against torch's own attention.

What a call costs before and after its kernels bounds small feature maps on a GPU. On the CPU, the map is so
small that the kernels take little of the time; they take more the larger the window. Figures are CPU time
of the process, with one thread: the least of many rounds, in which all calls take turns. They include
autograd's work, but not the wait for a GPU. Inputs are views of one projection; backward computes all
gradients, the bias's too. torch's scaled_dot_product_attention gets the same tensors, and has no bias.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.lib.cases import Case
from benchmarks.lib.devices import get_device
from benchmarks.lib.machine import describe_machine
from benchmarks.lib.operators import check_kernels, natten_ops_computation
from benchmarks.lib.options import numbers, positive
from benchmarks.lib.tables import Table, print_head
from benchmarks.lib.workload import DIRECTIONS, Computation
from mmnat.errors import report_user_errors
from natten_ops import NeighborhoodAttention2D

SIDE, HEADS, HEAD_DIM = 8, 2, 32
KERNEL_SIZES = ['3', '7']
DTYPES = {'cpu': 'float32', 'cuda': 'float16'}
ROUNDS, CALLS = '200', 20
WARM_UP = 3
TORCH = 'scaled_dot_product_attention'
COLUMNS = {'kernel_size': 11, 'direction': -16, 'implementation': -28, 'microseconds': 12, 'ratio': 6}


def module_computation(case: Case) -> Computation:
    """The module with its projections, and gradients for its input and parameters."""
    module = NeighborhoodAttention2D(case.heads * case.head_dim, case.heads, case.kernel_size)
    module.to(**case.options)
    shape = case.batch, case.height, case.width, case.heads * case.head_dim
    tokens = torch.randn(shape, **case.options)
    gradient = torch.randn(shape, **case.options)
    return Computation(lambda: (module(tokens),), [tokens, *module.parameters()], (gradient,))


def torch_computation(case: Case) -> Computation:
    """Full attention of torch, of every token to all."""
    batch, height, width, heads, head_dim = case.query_shape
    projection = torch.randn(batch, height * width, 3, heads, head_dim, **case.options)
    leaves = [view.transpose(1, 2).detach() for view in projection.unbind(2)]
    gradient = torch.randn_like(leaves[0])

    def function() -> Sequence[Tensor]:
        return (F.scaled_dot_product_attention(*leaves),)

    return Computation(function, leaves, (gradient,))


COMPUTATIONS = {
    'na2d': natten_ops_computation,
    'NeighborhoodAttention2D': module_computation,
    TORCH: torch_computation,
}


def host_times(calls: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """The host's time of every call in microseconds, the least of the rounds."""
    times = {name: float('inf') for name in calls}
    for turn in range(WARM_UP + rounds):
        for name, call in calls.items():
            start = time.process_time_ns()
            for _ in range(CALLS):
                call()
            took = time.process_time_ns() - start
            if device == 'cuda':
                torch.cuda.synchronize()  # so that no call waits for room on the stream
            if turn >= WARM_UP:
                times[name] = min(times[name], took / CALLS / 1e3)
    return times


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--device', default='cpu', help='where to measure: cpu, the default, or cuda')
    parser.add_argument(
        '--kernel-size', nargs='+', default=KERNEL_SIZES, help='keys in a window on each axis; 3 and 7'
    )
    parser.add_argument('--rounds', default=ROUNDS, help=f'of {CALLS} calls each; {ROUNDS}')
    return parser.parse_args(argv)


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the figures."""
    args = parse_args(argv)
    device = get_device(args.device)
    check_kernels(device.name)
    kernel_sizes = numbers('--kernel-size', args.kernel_size)
    rounds = positive('--rounds', args.rounds)
    torch.set_num_threads(1)
    print_head(describe_machine([1], device))
    table = Table(list(COLUMNS), COLUMNS)
    for kernel_size, direction in itertools.product(kernel_sizes, DIRECTIONS):
        case = Case(SIDE, SIDE, HEADS, HEAD_DIM, 1, kernel_size, 1, DTYPES[device.name], device.name)
        calls = {name: make(case).call(direction) for name, make in COMPUTATIONS.items()}
        times = host_times(calls, rounds, device.name)
        for name, microseconds in times.items():
            table.add(
                {
                    'kernel_size': kernel_size,
                    'direction': direction,
                    'implementation': name,
                    'microseconds': microseconds,
                    'ratio': microseconds / times[TORCH],
                }
            )


if __name__ == '__main__':
    main()
