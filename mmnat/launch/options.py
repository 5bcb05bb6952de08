"""The command line options that training and testing share, and their effect on the config."""

import argparse
import difflib
import inspect
import os
import os.path as osp

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from mmnat.config import read_config
from mmnat.errors import UserError, warn

from .loaders import drop_settings_of_workers


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument('--work-dir', help='the directory to save logs and results in')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config, as key=value pairs, for example '
        'train_dataloader.batch_size=2 or key="[(a,b),(c,d)]" without white space',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run are started',
    )
    # torch.distributed.launch passes --local-rank, before torch 2.0 --local_rank.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Load the config of a training or a test run.

    Args:
        args: Parsed options, see :func:`add_config_options`.

    Returns:
        The config with ``work_dir`` and ``launcher`` set.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    if args.cfg_options:
        _merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    # The command line overrides the config, and the config overrides the name of its file.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    drop_settings_of_workers(cfg)
    return cfg


def _merge_options(cfg: Config, options: dict) -> None:
    for name in dict.fromkeys(key.partition('.')[0] for key in options):
        nearest = difflib.get_close_matches(name, cfg, n=1, cutoff=0.8)
        if nearest and name not in cfg and name not in inspect.signature(Runner).parameters:
            warn(f'--cfg-options {name}: the config has no such field; the nearest is {nearest[0]}')
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip('"').splitlines()[0]
        raise UserError(
            f'--cfg-options does not fit config {cfg.filename}: {reason}', 'correct the keys'
        ) from error
