"""A config swapped and run: what comes of it."""

import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

from mmengine.config import Config

from mmnat.swap import Framework, SwapRefused, swap
from mmnat.swap.check.reduction import reduced
from mmnat.swap.check.running import DoesNotRun, check_runs

from .rows import FAILED, RAN, REFUSED

BACKBONE = 'nat_mini'
#: Status, reason and seconds.
Outcome = tuple[str, str, float]

#: Status and reason of the models that this process ran.
_RUNS: dict[str, tuple[str, str]] = {}


def examine(path: str, framework: Framework) -> Outcome:
    """Swap a config's backbone and run the model.

    Args:
        path: the config file.
        framework: its framework.
    """
    start = time.monotonic()
    cfg = Config.fromfile(path)
    status, reason = RAN, ''
    try:
        swapped, _ = swap(cfg, framework, BACKBONE, pretrained=None)
    except SwapRefused as refusal:
        status, reason = REFUSED, str(refusal)
    else:
        status, reason = _run(swapped, cfg, framework)
    return status, reason, time.monotonic() - start


def _run(swapped: Config, cfg: Config, framework: Framework) -> tuple[str, str]:
    """Run a swapped model, unless this process ran an equal one: some differ in the old backbone only."""
    paramwise = (swapped.get('optim_wrapper') or {}).get('paramwise_cfg')
    key = f'{reduced(swapped.model.to_dict())} {paramwise}'
    if key not in _RUNS:
        try:
            _RUNS[key] = RAN, '; '.join(check_runs(swapped, framework.registry))
        except DoesNotRun as error:
            _RUNS[key] = _blame(cfg, framework, error)
    return _RUNS[key]


def _blame(cfg: Config, framework: Framework, error: DoesNotRun) -> tuple[str, str]:
    """Whether it is the swap's fault that a model does not run."""
    try:
        check_runs(cfg, framework.registry)
    except DoesNotRun as before:
        return REFUSED, f'the model does not run here before the swap either: {before}'
    return FAILED, str(error)


def work(connection: Connection, framework: str) -> None:
    """Examine the configs that come in until None does: the life of a worker process.

    Args:
        connection: gives paths, takes outcomes.
        framework: the configs' framework.
    """
    import torch

    from mmnat.swap import load_framework
    from mmnat.swap.check.running import quiet

    torch.set_num_threads(1)
    with quiet():
        loaded = load_framework(framework)
        try:
            while (path := connection.recv()) is not None:
                connection.send(_examine_whatever_comes(path, loaded))
        except (EOFError, BrokenPipeError):  # whoever asked has gone
            return


def _examine_whatever_comes(path: str, framework: Framework) -> Outcome:
    start = time.monotonic()
    try:
        return examine(path, framework)
    except Exception as error:  # a row for it, and on with the next
        lines: Sequence[str] = str(error).splitlines() or ['']
        return FAILED, f'{type(error).__name__}: {lines[0]}', time.monotonic() - start
