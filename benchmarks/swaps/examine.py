"""Swap the backbone of a config, and run the model."""

import time
from typing import NamedTuple

import torch
from mmengine.config import Config

from mmnat.quiet import quiet
from mmnat.swap import Framework, SwapRefused, load_framework, swap
from mmnat.swap.check.reduction import reduced
from mmnat.swap.check.running import DoesNotRun, Run, check_runs

from .rows import FAILED, RAN, RAN_AFTER_MENDING, REFUSED

BACKBONE = 'nat_mini'


class Outcome(NamedTuple):
    """The outcome of a config, see :class:`benchmarks.swaps.rows.Row`.

    Attributes:
        status: A status of a row.
        reason: Its reason.
        seconds: The duration, None if it is not known.
    """

    status: str
    reason: str
    seconds: float | None


#: Status and reason of the models that this process ran.
_RUNS: dict[str, tuple[str, str]] = {}


def examine(path: str, framework: Framework) -> Outcome:
    """Swap a config's backbone and run the model.

    Args:
        path: The config file.
        framework: The config's framework.
    """
    start = time.monotonic()
    cfg = Config.fromfile(path)
    try:
        swapped, _ = swap(cfg, framework, BACKBONE, pretrained=None)
    except SwapRefused as refusal:
        status, reason = REFUSED, str(refusal)
    else:
        status, reason = _run(swapped, cfg, framework)
    return Outcome(status, reason, time.monotonic() - start)


def prepare_worker(framework: str) -> None:
    """Prepare a worker process for :func:`examine_in_worker`.

    Args:
        framework: 'mmdet' or 'mmseg'.
    """
    torch.set_num_threads(1)
    with quiet():
        load_framework(framework)


def examine_in_worker(path: str, framework: str) -> Outcome:
    """Examine a config, and make every exception an outcome.

    Args:
        path: The config file.
        framework: 'mmdet' or 'mmseg'.
    """
    start = time.monotonic()
    try:
        with quiet():
            return examine(path, load_framework(framework))
    except Exception as error:  # a row for it, and on with the next config
        lines = str(error).splitlines() or ['']
        return Outcome(FAILED, f'{type(error).__name__}: {lines[0]}', time.monotonic() - start)


def _run(swapped: Config, cfg: Config, framework: Framework) -> tuple[str, str]:
    """Run a swapped model, unless this process ran an equal one: some differ in the old backbone only."""
    paramwise = (swapped.get('optim_wrapper') or {}).get('paramwise_cfg')
    key = f'{reduced(swapped.model.to_dict())} {paramwise}'
    if key not in _RUNS:
        try:
            _RUNS[key] = _described(check_runs(swapped, framework.registry))
        except DoesNotRun as error:
            _RUNS[key] = _blame(cfg, framework, error)
    return _RUNS[key]


def _described(run: Run) -> tuple[str, str]:
    faults = [f'after mending the installed {fault.package}: {fault.description}' for fault in run.faults]
    return RAN_AFTER_MENDING if faults else RAN, '; '.join([*faults, *run.notes])


def _blame(cfg: Config, framework: Framework, error: DoesNotRun) -> tuple[str, str]:
    """Find out whether a model does not run because of the swap."""
    try:
        check_runs(cfg, framework.registry)
    except DoesNotRun as before:
        return REFUSED, f'the model does not run here before the swap either: {before}'
    return FAILED, str(error)
