"""Train a detector of mmdet or a segmentor of mmseg."""

import argparse
import contextlib
import copy
import os.path as osp
from collections.abc import Sequence

from mmengine.config import Config

from mmnat.checkpoints.latest import latest_checkpoint
from mmnat.checkpoints.safety import forbid_unsafe_loading
from mmnat.config import require_fields
from mmnat.config_files import check_dump
from mmnat.errors import UserError, report_user_errors
from mmnat.launch.agreement import ready_together
from mmnat.launch.amp import enable_amp
from mmnat.launch.distributed import configure_distribution, name_processes
from mmnat.launch.memory import keep_freed_memory
from mmnat.launch.options import add_config_options, load_config
from mmnat.launch.processes import end_together
from mmnat.launch.runner import build_runner
from mmnat.launch.seeded_model import SeededModel
from mmnat.launch.work_dir_lock import work_dir_of_its_own
from mmnat.preflight.checks import check_training
from mmnat.preflight.structure import check_structure


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser('mmnat train', description=__doc__)
    parser.add_argument('config', help='config file')
    add_config_options(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='resume from a checkpoint, by default from the latest one in the work directory',
    )
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size'
    )
    return parser.parse_args(argv)


def apply_options(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the command line options that only training has."""
    if args.amp or cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':
        enable_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError(
                f'--auto-scale-lr finds no auto_scale_lr.base_batch_size in {args.config}',
                'add auto_scale_lr = dict(enable=False, base_batch_size=...) to the config',
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        path = latest_checkpoint(cfg.work_dir) if args.resume == 'auto' else args.resume
        cfg.load_from = osp.expanduser(path)


def prepare(args: argparse.Namespace) -> tuple[Config, SeededModel]:
    """Read the config, apply the options and check everything.

    Args:
        args: Parsed options.

    Returns:
        The config and its model.
    """
    cfg = load_config(args)
    require_fields(cfg, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    check_structure(cfg)
    check_dump(osp.join(cfg.work_dir, osp.basename(cfg.filename)), f'work_dir {cfg.work_dir}')
    apply_options(cfg, args)
    configure_distribution(cfg)
    built = SeededModel(cfg)
    check_training(cfg, copy.deepcopy(built.model))
    return cfg, built


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train the model of a config."""
    args = parse_args(argv)
    end_together()
    keep_freed_memory()
    forbid_unsafe_loading()
    name_processes(args.launcher)
    with contextlib.ExitStack() as held:
        with ready_together(args.launcher):
            cfg, built = prepare(args)
            held.enter_context(work_dir_of_its_own(cfg.work_dir))
        build_runner(cfg, built).train()
