"""The GPU's figures in docs/speed.md and README.md, from what benchmarks/gpu_report.sh measured.

benchmarks/results/ has one file a card: times.jsonl and then peers.jsonl of the report.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo_tables import replace_table

from mmnat.atomic_file import atomic_write
from mmnat.errors import UserError, report_user_errors

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'benchmarks/results/operator_h200.jsonl'
#: Bytes that the copy moves that bandwidths are compared with: what a forward at 200x304 has to move.
COPIED_BYTES = 498_000_000
MAPS = ('200x304x2', '100x152x4', '50x76x8', '25x38x16')
DIRECTIONS = ('forward', 'forward+backward')
COLUMNS = (
    'feature map x heads', 'float16', 'natten_ops', 'of copy', 'window attention',
    'FlexAttention, compiled', 'float32', 'float32 by TF32',
)  # fmt: skip
PEERS = ('swin-sdpa', 'flex_attention')

Row = dict[str, Any]


class Figures:
    """What was measured on one card; raises UserError if the file is not of the report."""

    def __init__(self, path: Path) -> None:
        try:
            self._rows: list[Row] = [json.loads(line) for line in path.read_text().splitlines() if line]
        except (OSError, ValueError) as error:
            raise UserError(f'{path} cannot be read: {error}', 'run benchmarks/gpu_report.sh') from error
        self.path = path

    def first(self, **wanted: object) -> Row:
        """The first row that has these values; each part of the report measures the copies again."""
        for row in self._rows:
            if all(row.get(key) == value for key, value in wanted.items()):
                return row
        raise UserError(f'{self.path} has no row with {wanted}', 'run benchmarks/gpu_report.sh to its end')

    def microseconds(self, implementation: str, feature_map: str, direction: str, dtype: str) -> float:
        """The time of one call with dilation 1."""
        return self.row(implementation, feature_map, direction, dtype)['microseconds']

    def optional(self, implementation: str, feature_map: str, direction: str, dtype: str) -> float | None:
        """The same, or None if it was not measured."""
        try:
            return self.microseconds(implementation, feature_map, direction, dtype)
        except UserError:
            return None

    def row(self, implementation: str, feature_map: str, direction: str, dtype: str) -> Row:
        """The figures of one computation with dilation 1."""
        return self.first(
            implementation=implementation,
            feature_map=feature_map,
            direction=direction,
            dtype=dtype,
            dilation=1,
        )

    @property
    def machine(self) -> Row:
        """The line that describes it."""
        machine = next((row for row in self._rows if 'gpu' in row), None)
        if machine is None:
            raise UserError(f'{self.path} does not say of which GPU', 'run benchmarks/gpu_report.sh')
        return machine


def table(figures: Figures) -> str:
    """Date, card and command, and a line for every feature map and direction."""
    machine = figures.machine
    copy = figures.first(copied_bytes=COPIED_BYTES)['gb_per_s']
    commit = f' of commit {machine["commit"]}' if 'commit' in machine else ''
    lines = [
        f'{machine["date"]}, {machine["gpu"]}, torch {machine["torch"]}, `{machine["command"]}`{commit}:'
        f' microseconds for {machine["what"].partition(";")[0]}. A copy of {COPIED_BYTES // 10**6} MB runs'
        f' at {copy} GB/s.',
        '',
        f'| {" | ".join(COLUMNS)} |',
        '|' + '---|' * len(COLUMNS),
    ]
    for feature_map in MAPS:
        for direction in DIRECTIONS:
            own = figures.row('natten_ops', feature_map, direction, 'float16')
            peers = [figures.microseconds(peer, feature_map, direction, 'float16') for peer in PEERS]
            exact = figures.microseconds('natten_ops', feature_map, direction, 'float32')
            by_tf32 = figures.optional('natten_ops', feature_map, direction, 'float32 by TF32')
            height_width, _, heads = feature_map.rpartition('x')
            cells = [
                f'{height_width} x {heads}',
                direction,
                f'**{own["microseconds"]:.0f}**',
                f'{own["gb_per_s"] / copy:.0%}'.replace('%', ' %'),
                *(f'{time:.0f}' for time in (*peers, exact)),
                'not measured' if by_tf32 is None else f'{by_tf32:.0f}',
            ]
            lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def sentence(figures: Figures) -> str:
    """For the README: the largest feature map, forward."""
    own, windows = (
        figures.microseconds(name, MAPS[0], 'forward', 'float16') / 1000
        for name in ('natten_ops', PEERS[0])
    )
    return (
        f'On an {figures.machine["gpu"].removeprefix("NVIDIA ")} in float16 it takes {own:.2f} ms for 16'
        f' maps, window attention {windows:.1f} ms'
    )


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Put the table into docs/speed.md; print the README's sentence."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        'results', nargs='?', type=Path, default=RESULTS, help='figures of a card; %(default)s'
    )
    figures = Figures(parser.parse_args(argv).results)
    page = ROOT / 'docs/speed.md'
    text = replace_table(page.read_text(), 'gpu', table(figures), page)
    with atomic_write(page) as file:
        file.write_text(text)
    print(sentence(figures))


if __name__ == '__main__':
    main()
