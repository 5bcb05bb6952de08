"""Swap NAT-Mini into every config that the installed mmdet or mmseg ships, run each model, and report.

Each swapped model is built and run on small random images: a loss step with its backward, and a prediction.
Rows of an earlier report are kept if the model ran and has not changed since.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from mmnat.config_files import FRAMEWORKS
from mmnat.errors import UserError, report_user_errors
from mmnat.quiet import quiet

from .plan import Walk, plan
from .rows import FAILED, read_rows, totals, write_rows
from .workers import examine_all


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--framework', choices=FRAMEWORKS, required=True)
    parser.add_argument('--filter', default='', metavar='TEXT', help='only configs with TEXT in their name')
    parser.add_argument('--report', type=Path, required=True, metavar='FILE.csv', help='file for the rows')
    parser.add_argument(
        '--processes', type=int, default=len(os.sched_getaffinity(0)), help='by default one for each core'
    )
    parser.add_argument(
        '--timeout', type=float, default=300, metavar='SECONDS', help='for a config (default: 300)'
    )
    args = parser.parse_args(argv)
    if args.processes < 1 or args.timeout <= 0:
        parser.error('--processes and --timeout must be positive')
    return args


def run(walk: Walk, args: argparse.Namespace) -> None:
    """Examine what the walk has not settled, and keep the report up to date."""
    # Rows from a walk with another filter.
    others = {name: row for name, row in read_rows(args.report).items() if name not in walk.rows}
    with Progress() as progress:
        task = progress.add_task(args.framework, total=len(walk.jobs))
        for name, outcome in examine_all(args.framework, walk.jobs, args.processes, args.timeout):
            walk.settle(name, outcome)
            rows = others | walk.settled()
            write_rows(args.report, (rows[key] for key in sorted(rows)))
            progress.update(task, advance=1, description=f'{args.framework} {name[:50]}')
    rows = others | walk.settled()
    write_rows(args.report, (rows[key] for key in sorted(rows)))


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Walk over the configs."""
    args = parse_args(argv)
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    with quiet():
        walk = plan(args.framework, args.filter, read_rows(args.report))
    if not walk.rows:
        raise UserError(
            f'no config of {args.framework} has {args.filter!r} in its name', 'correct --filter'
        )
    run(walk, args)
    print(totals(walk.rows))
    if any(row.status == FAILED for row in walk.rows.values()):
        raise SystemExit(1)


if __name__ == '__main__':
    main()
