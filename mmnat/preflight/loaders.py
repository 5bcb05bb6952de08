"""The settings of the data loaders."""

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from mmnat.errors import UserError

#: Settings of worker processes, which torch rejects if there are none.
OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'timeout', 'multiprocessing_context')


def check_loaders(cfg: Config, fields: Sequence[str]) -> None:
    """Check numbers of workers and batch sizes.

    Args:
        cfg: The config.
        fields: The data loaders in it, which may be None.

    Raises:
        UserError: If torch would reject them.
    """
    for field in fields:
        loader = cfg.get(field)
        if not isinstance(loader, dict):
            continue
        workers, size = loader.get('num_workers', 0), loader.get('batch_size', 1)
        if not _is_count(workers, 0):
            raise UserError(f'{field}.num_workers = {workers!r} is not a number of processes', 'correct it')
        if not _is_count(size, 1):
            raise UserError(f'{field}.batch_size = {size!r} is not a number of images', 'correct it')
        needless = [name for name in OF_WORKERS if loader.get(name) and workers == 0]
        if needless:
            raise UserError(
                f'{field} has num_workers = 0 and {", ".join(needless)}, which need workers',
                f'set {field}.{needless[0]}={"False" if loader[needless[0]] is True else "None"}',
            )


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
