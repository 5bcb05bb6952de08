"""The report of a walk over configs: one row per config, in a CSV file."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mmnat.atomic_file import atomic_write

RAN, RAN_AFTER_MENDING, REFUSED = 'ran', 'ran after mending', 'refused'
FAILED, NOT_APPLICABLE = 'failed', 'not applicable'


@dataclass(frozen=True)
class Row:
    """The outcome of a config.

    Attributes:
        framework: 'mmdet' or 'mmseg'.
        config: The config's name in the installed package.
        status: 'ran'; 'ran after mending' if the model runs only after a fault of an installed package was
            mended; 'refused'; 'failed'; or 'not applicable' if there is nothing to swap.
        same_as: An earlier config with the same model, whose outcome this one shares.
        reason: Why the model did not run, what was mended, or a note on the run.
        seconds: The duration of the swap and the run.
        model: A hash of the model's config.
        version: The version of this project, and a hash of the sources that a swap depends on.
    """

    framework: str
    config: str
    status: str
    same_as: str = ''
    reason: str = ''
    seconds: str = ''
    model: str = ''
    version: str = ''


def read_rows(path: Path) -> dict[str, Row]:
    """The rows of an earlier walk by config; none if there is no file."""
    if not path.is_file():
        return {}
    with path.open(newline='') as file:
        return {row['config']: Row(**row) for row in csv.DictReader(file)}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a report, whole or not at all."""
    with atomic_write(path) as unfinished, unfinished.open('w', newline='') as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator='\n')
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def totals(rows: Mapping[str, Row]) -> str:
    """Counts by status, and the reasons with their counts."""
    counts = Counter(row.status for row in rows.values())
    applicable = sum(counts.values()) - counts[NOT_APPLICABLE]
    unique = sum(not row.same_as and row.status != NOT_APPLICABLE for row in rows.values())
    shares = {status: counts[status] / max(applicable, 1) for status in (RAN, RAN_AFTER_MENDING)}
    lines = [
        f'{len(rows)} configs, {applicable} with a backbone to swap ({unique} different models):'
        + ''.join(f' {counts[status]} {status} ({share:.1%}),' for status, share in shares.items())
        + f' {counts[REFUSED]} refused, {counts[FAILED]} failed'
    ]
    for status in (RAN, RAN_AFTER_MENDING, REFUSED, FAILED, NOT_APPLICABLE):
        reasons = Counter(row.reason for row in rows.values() if row.status == status and row.reason)
        lines += [f'  {count:4d} {status}: {reason}' for reason, count in reasons.most_common()]
    return '\n'.join(lines)
