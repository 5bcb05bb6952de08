"""What a swap changed, and why."""

from dataclasses import dataclass, field
from typing import Any

_SHOWN = 70  # characters of a value


@dataclass(frozen=True)
class Change:
    """One change of a config.

    Attributes:
        field: The field's path, such as ``model.neck.in_channels``.
        old: The value before, None if there was none.
        new: The value now, None if the field was removed.
        why: The reason.
    """

    field: str
    old: Any
    new: Any
    why: str

    def __str__(self) -> str:
        return f'{self.field}: {_shortened(self.old)} -> {_shortened(self.new)}  ({self.why})'


@dataclass
class Report:
    """The changes of a swap, in the order they were made, and what to keep in mind.

    Attributes:
        changes: The changes.
        notes: Consequences that no changed field shows.
    """

    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, path: str, old: Any, new: Any, why: str) -> None:
        """Add a change, unless nothing changed. A tuple counts as a list."""
        old, new = (list(value) if isinstance(value, tuple) else value for value in (old, new))
        if old != new:
            self.changes.append(Change(path, old, new, why))

    def note(self, text: str) -> None:
        """Add a consequence."""
        self.notes.append(text)

    def __str__(self) -> str:
        return '\n'.join(
            [*(f'  {change}' for change in self.changes), *(f'  note: {n}' for n in self.notes)]
        )


def _shortened(value: Any) -> str:
    if value is None:
        return 'nothing'
    if isinstance(value, dict) and 'type' in value:
        return str(value['type'])
    text = str(value)
    return text if len(text) <= _SHOWN else f'{text[: _SHOWN - 3]}...'
