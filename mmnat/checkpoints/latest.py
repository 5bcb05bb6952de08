"""The checkpoint from which a training goes on."""

import os.path as osp

from mmengine.runner import find_latest_checkpoint

from mmnat.errors import UserError


def latest_checkpoint(work_dir: str) -> str:
    """Find the checkpoint that ``last_checkpoint`` in a work directory names, also if the directory moved.

    Args:
        work_dir: The work directory.

    Returns:
        The path: in the work directory if the file is there, else as ``last_checkpoint`` has it.

    Raises:
        UserError: If nothing is named, or the file does not exist.
    """
    named = find_latest_checkpoint(work_dir)
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
