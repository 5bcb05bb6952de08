"""The checkpoint from which a training goes on."""

import glob
import os.path as osp

from mmengine.runner import find_latest_checkpoint

from mmnat.errors import UserError

# Of the files from which a training can go on.
PATTERNS = ('epoch_*.pth', 'iter_*.pth', 'interrupted.pth')


def latest_checkpoint(work_dir: str) -> str:
    """Find the checkpoint that ``last_checkpoint`` in a work directory names, also if the directory moved.

    If it names none, that is the newest one there.

    Args:
        work_dir: The work directory.

    Returns:
        The path: in the work directory if the file is there, else as ``last_checkpoint`` has it.

    Raises:
        UserError: If nothing is named, or the file does not exist.
    """
    # A training that is killed while it writes last_checkpoint leaves it empty.
    named = find_latest_checkpoint(work_dir) or _newest(work_dir)
    if not named:
        raise UserError(
            f'--resume finds no checkpoint in {work_dir}',
            'leave out --resume to start anew, or name the checkpoint: --resume PATH',
        )
    # The path is that of the run that wrote it: relative to its current folder, or in another place.
    beside = osp.join(work_dir, osp.basename(named))
    for path in (beside, named):
        if osp.isfile(path):
            return path
    source = osp.join(work_dir, 'last_checkpoint')
    raise UserError(
        f'--resume finds neither {named}, which {source} names, nor {beside}',
        'name the checkpoint: --resume PATH',
    )


def other_checkpoints(path: str) -> list[str]:
    """List the files beside a checkpoint from which a training can go on, too, the newest first.

    Args:
        path: The checkpoint.
    """
    found = _checkpoints(osp.dirname(path))
    return [other for other in found if osp.basename(other) != osp.basename(path)]


def _newest(work_dir: str) -> str | None:
    return next(iter(_checkpoints(work_dir)), None)


def _checkpoints(folder: str) -> list[str]:
    """Those in a folder, the newest first. A symbolic link that leads nowhere is none."""
    paths = [path for pattern in PATTERNS for path in glob.glob(osp.join(glob.escape(folder), pattern))]
    return sorted(filter(osp.isfile, paths), key=osp.getmtime, reverse=True)
