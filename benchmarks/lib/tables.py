"""Rows of figures, printed and kept as CSV."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mmnat.atomic_file import atomic_write
from mmnat.errors import UserError

Row = dict[str, str | int | float | None]


class Table:
    """Rows that are printed as they come, aligned, and written once all are there.

    Args:
        columns: What every row holds, by name of the column.
        printed: Columns to print, and their widths; the others are only written. A column with a negative
            width is aligned left.
    """

    def __init__(self, columns: Sequence[str], printed: Mapping[str, int]) -> None:
        self.columns = columns
        self.printed = printed
        self.rows: list[Row] = []
        if printed:
            self._print({name: name for name in printed})

    def add(self, row: Row) -> None:
        """Take a row and print it; columns that it lacks stay empty."""
        self.rows.append(row)
        if self.printed:
            self._print(row)

    def _print(self, row: Mapping[str, str | int | float | None]) -> None:
        cells = []
        for name, width in self.printed.items():
            value = row.get(name)
            text = '' if value is None else f'{value:.4g}' if isinstance(value, float) else str(value)
            cells.append(text.ljust(-width) if width < 0 else text.rjust(width))
        print('  '.join(cells).rstrip(), flush=True)

    def write(self, path: Path, head: Mapping[str, str]) -> None:
        """Write a CSV file that begins with ``# name: value`` lines, whole or not at all.

        Raises:
            UserError: If it cannot be written.
        """
        with atomic_write(path) as unfinished, unfinished.open('w', newline='') as file:
            file.writelines(f'# {name}: {value}\n' for name, value in head.items())
            writer = csv.DictWriter(file, self.columns, restval='', lineterminator='\n')
            writer.writeheader()
            for row in self.rows:
                writer.writerow({name: _compact(value) for name, value in row.items()})
        print(path)


def print_head(head: Mapping[str, str]) -> None:
    """Print what the head of a file will say."""
    for name, fact in head.items():
        print(f'{name}: {fact}')


def _compact(value: str | int | float | None) -> str | int | None:
    return f'{value:.6g}' if isinstance(value, float) else value


def read_table(path: Path, columns: Iterable[str]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Read a file that :meth:`Table.write` wrote.

    Args:
        path: The file.
        columns: What it has to hold.

    Returns:
        What the comments say, by name, and the rows.

    Raises:
        UserError: If the file cannot be read or lacks a column.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read: {error}', 'name a CSV file of a benchmark') from error
    comments = [line.removeprefix('# ').partition(': ') for line in lines if line.startswith('#')]
    reader = csv.DictReader(line for line in lines if not line.startswith('#'))
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(
            f'{path} has no column {", ".join(missing)}', 'name a CSV file of the right benchmark'
        )
    return {name: value for name, _, value in comments}, list(reader)
