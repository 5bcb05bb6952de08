"""The walk over a framework's configs: which ones to examine, and which outcomes are known."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

import mmnat
from mmnat.config_files import framework_configs, framework_folder
from natten_ops.version import __version__

from .examine import Outcome
from .rows import NOT_APPLICABLE, RAN, RAN_AFTER_MENDING, Row

_DIGITS = 12
_PACKAGES = Path(mmnat.__path__[0]).parent
#: The sources that the outcome of a row depends on, besides the installed packages.
_SOURCES = (
    *(_PACKAGES / name for name in ('mmnat', 'mmdet_nat', 'mmseg_nat')),
    Path(__file__).parent,
)


@dataclass
class Walk:
    """A walk's rows so far, and the configs that are still to be examined.

    Attributes:
        rows: The rows by config.
        jobs: Names and paths of the configs to examine, one for each different model.
        same: For every other config, the earlier one with the same model.
    """

    rows: dict[str, Row]
    jobs: list[tuple[str, str]]
    same: dict[str, str]

    def settle(self, name: str, outcome: Outcome) -> None:
        """Note the outcome of a config for it and for all with the same model."""
        seconds = '' if outcome.seconds is None else f'{outcome.seconds:.1f}'
        row = replace(self.rows[name], status=outcome.status, reason=outcome.reason, seconds=seconds)
        self.rows[name] = row
        for other, first in self.same.items():
            if first == name:
                self.rows[other] = replace(row, config=other, same_as=name, seconds='')

    def settled(self) -> dict[str, Row]:
        """The rows with an outcome."""
        return {name: row for name, row in self.rows.items() if row.status}


def plan(framework: str, pattern: str, known: Mapping[str, Row]) -> Walk:
    """Read all configs, and leave out those that ran before and have not changed since.

    Args:
        framework: The framework whose configs to read.
        pattern: A part of their names; empty for all.
        known: The rows of an earlier walk.
    """
    walk = Walk({}, [], {})
    version = source_version()
    first: dict[str, str] = {}
    for name, path in framework_configs(framework):
        if pattern not in name:
            continue
        row, model = _described(framework, name, path, version)
        walk.rows[name] = row
        if model is None:
            continue
        if row.model in first:
            walk.same[name] = first[row.model]
            continue
        first[row.model] = name
        old = known.get(name)
        ran = old is not None and old.status in (RAN, RAN_AFTER_MENDING)
        if ran and (old.model, old.version) == (row.model, row.version):
            walk.rows[name] = replace(old, same_as='')
        else:
            walk.jobs.append((name, str(path)))
    for name, earlier in walk.same.items():
        if walk.rows[earlier].status:
            walk.rows[name] = replace(walk.rows[earlier], config=name, same_as=earlier, seconds='')
    return walk


def source_version() -> str:
    """This project's version, and a hash of the sources that swap and run."""
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted(folder.rglob('*.py')):
            digest.update(path.read_bytes())
    return f'{__version__}+{digest.hexdigest()[:_DIGITS]}'


def _described(framework: str, name: str, path: Path, version: str) -> tuple[Row, Any]:
    """A row without an outcome and the model; or a row that says why there is no model, and None."""
    row = Row(framework, name, '', version=version)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config file may raise anything
        lines = str(error).splitlines() or [type(error).__name__]
        reason = lines[0].replace(f'{framework_folder(framework)}/', '')
        return replace(row, status=NOT_APPLICABLE, reason=f'does not load here: {reason}'), None
    model = cfg.get('model')
    if model is None:
        return replace(row, status=NOT_APPLICABLE, reason='has no model'), None
    text = json.dumps(model.to_dict(), sort_keys=True, default=str)
    if '"backbone"' not in text:
        return replace(row, status=NOT_APPLICABLE, reason=f'{model.type} has no field `backbone`'), None
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
    return replace(row, model=digest), model
