"""Count parameters and multiply-accumulates of configs and compare them with the published figures.

Counted on tensors without memory: neither weights nor a GPU are needed, and a model takes about a second.
mmnat/complexity/models.py says what counts.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from mmnat.complexity.measure import Row, measure_all, measure_config
from mmnat.errors import report_user_errors


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        'mmnat count', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='configs')
    parser.add_argument('--all', action='store_true', help='all published models, and the classifiers')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the image; by default that of the published figures, else 800 1280 for a detector and '
        'the size of the test pipeline or of the crops for a segmentor',
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    args = parser.parse_args(argv)
    if args.all == bool(args.configs):
        parser.error('name configs, or give --all')
    if args.size and min(args.size) < 1:
        parser.error(f'--size must be positive, got {args.size[0]} {args.size[1]}')
    return args


def _line(row: Row) -> str:
    cells = [f'{row["height"]}x{row["width"]}', f'{row["params"]:.1f} M', f'{row["macs"]:.1f} G']
    if 'published_macs' in row:
        difference = row['macs'] / row['published_macs'] - 1
        cells += [f'{row["published_params"]:.0f} M', f'{row["published_macs"]:g} G', f'{difference:+.1%}']
    return _columns(Path(row['model']).name, cells)


def _columns(name: str, cells: Sequence[str]) -> str:
    return ' '.join([name.ljust(64), *(cell.rjust(9) for cell in cells)])


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Count what the command line names."""
    args = parse_args(argv)
    size = tuple(args.size) if args.size else None
    rows = measure_all() if args.all else (measure_config(path, size) for path in args.configs)
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # what the frameworks print does not mix with the results
        if args.json:
            print(json.dumps(list(rows), indent=2), file=output)
            return
        heads = ('image', 'params', 'MACs', 'published', 'published', 'MACs')
        print(_columns('model', heads), file=output)
        for row in rows:
            print(_line(row), file=output, flush=True)
