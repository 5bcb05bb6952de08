"""The report of a walk over configs: one row each, in a CSV file."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mmnat.atomic_file import atomic_write

RAN, REFUSED, FAILED, NOT_APPLICABLE = 'ran', 'refused', 'failed', 'not applicable'


@dataclass(frozen=True)
class Row:
    """What came of a config.

    Attributes:
        framework: 'mmdet' or 'mmseg'.
        config: its name in the installed package.
        status: 'ran', 'refused', 'failed', or 'not applicable' where there is nothing to swap.
        same_as: an earlier config with the same model, whose outcome this one has.
        reason: why it did not run, or what to say of the run.
        seconds: that the swap and the run took.
        model: a hash of the model's config.
        version: of this project, and a hash of the sources that a swap depends on.
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
    """The rows of an earlier walk by config; none where there is no file."""
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
    """Counts by status, and the reasons of what did not run with theirs."""
    counts = Counter(row.status for row in rows.values())
    applicable = sum(counts.values()) - counts[NOT_APPLICABLE]
    unique = sum(not row.same_as and row.status != NOT_APPLICABLE for row in rows.values())
    share = counts[RAN] / applicable if applicable else 0
    lines = [
        f'{len(rows)} configs, {applicable} with a backbone to swap ({unique} different models):'
        f' {counts[RAN]} ran ({share:.1%}), {counts[REFUSED]} refused, {counts[FAILED]} failed'
    ]
    for status in (RAN, REFUSED, FAILED, NOT_APPLICABLE):
        reasons = Counter(row.reason for row in rows.values() if row.status == status and row.reason)
        lines += [f'  {count:4d} {status}: {reason}' for reason, count in reasons.most_common()]
    return '\n'.join(lines)
