"""The directory that a run writes to."""

import os
import os.path as osp
import shutil

from mmengine.config import Config
from torch import nn

from mmnat.errors import UserError

_MIB = 2**20


def check_work_dir(cfg: Config, model: nn.Module | None = None) -> None:
    """Check that the work directory exists or can be made, and that there is space for what a run writes.

    Args:
        cfg: The config.
        model: The model of a training, whose weights are written at least.

    Raises:
        UserError: If not.
    """
    path = cfg.get('work_dir')
    if path is None:
        return
    remedy = 'name another folder with --work-dir'
    folder = osp.abspath(path)
    while not osp.lexists(folder):
        folder = osp.dirname(folder)
    if not osp.isdir(folder):
        raise UserError(f'work_dir {path} cannot be a folder: {folder} is a file', remedy)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f'work_dir {path} cannot be written: {folder} is read-only for this user', remedy)
    disk = shutil.disk_usage(folder)
    needed = max(_MIB, _size(model) if model is not None and _saves_checkpoints(cfg) else 0)
    if disk.total and disk.free < needed:  # some file systems do not know their size
        raise UserError(
            f'work_dir {path}: its disk has {disk.free // _MIB} MiB left, and the run writes at least'
            f' {-(-needed // _MIB)} MiB',
            f'free space there, or {remedy}',
        )


def _saves_checkpoints(cfg: Config) -> bool:
    """Whether checkpoints are written into the work directory, as they are by default."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint', {})
    return hook is not None and hook.get('out_dir') is None


def _size(model: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())
