"""Draw the losses and metrics that training logged in a work directory."""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from mmnat.atomic_file import atomic_write
from mmnat.errors import UserError, report_user_errors

matplotlib.use('Agg')
from matplotlib import pyplot

PNG = b'\x89PNG\r\n\x1a\n'  # what such a file begins with

# What is worth a curve of the metrics that mmdet and mmseg log.
METRICS = ('coco/bbox_mAP', 'coco/segm_mAP', 'coco/bbox_mAP_50', 'coco/segm_mAP_50', 'mIoU', 'mAcc')


def read_scalars(work_dir: Path) -> dict[str, dict[int, float]]:
    """Read all runs of a work directory, resumed ones in the order they were made.

    Args:
        work_dir: The folder that ``mmnat train`` wrote to.

    Returns:
        Value by step by name. A step that was repeated after resuming has its last value.

    Raises:
        UserError: If there are no logs, or one is broken.
    """
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    scalars: dict[str, dict[int, float]] = defaultdict(dict)
    step = 0
    for record in (record for file in files for record in _records(file)):
        # mmdet counts the steps of metrics in epochs; they belong to the iterations before them.
        step = record['step'] if 'loss' in record else step
        for name, value in record.items():
            if isinstance(value, (int, float)):
                scalars[name][step] = value
    if 'loss' not in scalars:
        raise UserError(f'{work_dir} holds no training logs', 'name the work directory of a training')
    return scalars


def _records(log: Path) -> Iterator[dict[str, Any]]:
    """Read the records of a log. Its last line is left out if it was cut when the training was killed."""
    lines = log.read_bytes().rstrip().split(b'\n')
    for number, line in enumerate(lines, 1):
        record = _record(line)
        if record is not None:
            yield record
        elif line.strip() and number < len(lines):
            raise UserError(f'log {log}, line {number}, is no record of a training', 'remove the line')


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None
    return record if isinstance(record, dict) and isinstance(record.get('step'), int) else None


def check_picture(path: Path) -> None:
    """Raise :class:`UserError` if a file is there that is no picture of an earlier call."""
    if path.is_file() and path.stat().st_size and not path.read_bytes().startswith(PNG):
        raise UserError(f'{path} exists and is no PNG', 'name another file to write')


def plot(scalars: dict[str, dict[int, float]], path: Path) -> None:
    """Draw losses and metrics over iterations into a PNG."""
    losses = [name for name in scalars if name == 'loss' or '.loss' in name or name.startswith('loss_')]
    metrics = [name for name in METRICS if name in scalars]
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.5), layout='constrained')
    for axis, names, title in zip(axes, (losses, metrics), ('training loss', 'validation'), strict=True):
        for name in names:
            # Markers, for a metric may have been measured only once.
            style = dict(marker='o', markersize=3) if axis is axes[1] else dict(linewidth=1)
            points = sorted(scalars[name].items())
            axis.plot(*zip(*points, strict=True), label=name, **style)
        axis.set(title=title, xlabel='iteration')
        axis.grid(alpha=0.3)
        if names:
            axis.legend(fontsize=8)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, format='png', dpi=120)
    pyplot.close(figure)


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Draw the curves and print where they are."""
    parser = argparse.ArgumentParser('mmnat plot', description=__doc__)
    parser.add_argument('work_dir', type=Path, help='the work directory of a training')
    parser.add_argument('--out', type=Path, help='the picture; by default curves.png in the work directory')
    args = parser.parse_args(argv)
    path = args.out or args.work_dir / 'curves.png'
    check_picture(path)
    plot(read_scalars(args.work_dir), path)
    print(path)
