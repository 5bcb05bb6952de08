"""Draw the times that benchmarks/ops.py wrote: attention at the levels of a COCO input."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from benchmarks.lib.options import FOLDER
from benchmarks.lib.tables import read_table
from mmnat.atomic_file import atomic_write
from mmnat.errors import UserError, report_user_errors

matplotlib.use('Agg')
from matplotlib import pyplot
from matplotlib.axes import Axes

# What the picture shows of the file.
SHOWN = {'head_dim': '32', 'batch': '1', 'kernel_size': '7', 'dilation': '1', 'dtype': 'float32'}
MAPS = {'200x304': '2', '100x152': '4', '50x76': '8', '25x38': '16'}
COLUMNS = (
    *SHOWN, 'map', 'heads', 'threads', 'direction', 'implementation', 'median_ms', 'gflop',
    'gemm_gflop_per_s', 'note',
)  # fmt: skip
DIRECTIONS = ('forward', 'forward+backward')
IMPLEMENTATIONS = {
    'natten_ops': ('natten_ops', '#c0392b'),
    'swin-sdpa': ('Swin windows, torch SDPA', '#7fa8d1'),
    'swin-matmul': ('Swin windows, matmul-softmax-matmul', '#4a7fb5'),
    'flex_attention': ('FlexAttention, compiled', '#9b8ec4'),
    'natten': ('natten', '#6b9e78'),
    'reference': ('PyTorch reference', '#b0b0b0'),
}

Figures = dict[tuple[str, str, str], dict[str, str]]


def select(rows: Sequence[dict[str, str]], path: Path) -> tuple[str, Figures]:
    """The rows that the picture shows: those with the most threads.

    Args:
        rows: Of the file.
        path: The file, for messages.

    Returns:
        The number of threads, and the rows with figures by direction, map and implementation.

    Raises:
        UserError: If there are none.
    """
    fitting = [
        row
        for row in rows
        if MAPS.get(row['map']) == row['heads'] and all(row[name] == value for name, value in SHOWN.items())
    ]
    if not any(row['median_ms'] for row in fitting):
        raise UserError(f'{path} has no figures of the COCO levels', 'run python -m benchmarks.ops --quick')
    threads = max((row['threads'] for row in fitting), key=int)
    figures = {
        (row['direction'], row['map'], row['implementation']): row
        for row in fitting
        if row['threads'] == threads and row['median_ms']
    }
    return threads, figures


def draw(axis: Axes, direction: str, figures: Figures) -> None:
    """Draw one direction: bars per map, and the time of matrix products with as many operations."""
    maps = [name for name in MAPS if any(key[:2] == (direction, name) for key in figures)]
    names = [name for name in IMPLEMENTATIONS if any(key[::2] == (direction, name) for key in figures)]
    width = 0.8 / max(len(names), 1)
    for i, name in enumerate(names):
        for place, map_name in enumerate(maps):
            row = figures.get((direction, map_name, name))
            if row is None:
                continue
            label, color = IMPLEMENTATIONS[name]
            if name == 'natten' and row['note']:
                label = f'{label}, {row["note"]}'
            time = float(row['median_ms'])
            bar = axis.bar(place - 0.4 + (i + 0.5) * width, time, width, color=color, label=label)
            axis.bar_label(bar, [f'{time:.3g}' if time < 100 else f'{time:.0f}'], fontsize=7, padding=1)
    for place, map_name in enumerate(maps):
        rows = [row for key, row in figures.items() if key[:2] == (direction, map_name)]
        own = next((row for row in rows if row['implementation'] == 'natten_ops'), rows[0])
        limit = 1e3 * float(own['gflop']) / float(own['gemm_gflop_per_s'])
        axis.hlines(limit, place - 0.45, place + 0.45, color='black', linestyle='--', label='GEMM peak')
    axis.set_yscale('log')
    axis.set_xticks(range(len(maps)), [f'{name}\n{MAPS[name]} heads' for name in maps])
    axis.set(title=direction, ylabel='milliseconds')
    axis.grid(axis='y', alpha=0.3)
    axis.set_axisbelow(True)


def plot(threads: str, figures: Figures, head: dict[str, str], path: Path) -> None:
    """Draw both directions into a PNG, which is replaced only when complete."""
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.8), layout='constrained', sharey=True)
    for axis, direction in zip(axes, DIRECTIONS, strict=True):
        draw(axis, direction, figures)
    labels = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            labels.setdefault(label, handle)
    figure.legend(labels.values(), labels.keys(), loc='outside lower center', ncols=len(labels), fontsize=8)
    machine = ', '.join(head[name] for name in ('processor', 'instruction set') if name in head)
    title = 'attention at the levels of an 800x1216 image, kernel 7x7, head_dim 32, float32'
    count = f'{threads} {"thread" if threads == "1" else "threads"}'
    figure.suptitle(f'{title}\n{machine}, {count}', fontsize=10)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, format='png', dpi=100)
    pyplot.close(figure)


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Draw the picture and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('csv', type=Path, nargs='?', default=FOLDER / 'operator_cpu.csv')
    parser.add_argument('--out', type=Path, default=Path('resources/speed.png'), help='the picture, a PNG')
    args = parser.parse_args(argv)
    head, rows = read_table(args.csv, COLUMNS)
    plot(*select(rows, args.csv), head, args.out)
    print(args.out)


if __name__ == '__main__':
    main()
