"""Swap NAT, DiNAT or DiNAT_s into any config of mmdet or mmseg, and say what changed and why.

CONFIG is a path, or names a config of an installed package: mmdet::retinanet/retinanet_r50_fpn_1x_coco.py.

Exit codes: 0 for success, 2 for wrong input or a model that does not run, 3 if the model ran only after
--check mended a fault of an installed package. In that case, too, the file of --out is written:
the swap itself is correct.
"""

import argparse
import os.path as osp
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO

import rich
from mmengine.config import Config

from mmnat.config import framework, read_config
from mmnat.config_files import find_config
from mmnat.errors import UserError, report_user_errors
from mmnat.output_files import check_kept
from mmnat.quiet import quiet
from mmnat.swap import NAMES, Framework, Report, SwapRefused, load_framework, swap
from mmnat.swap.check.compare import comparison
from mmnat.swap.check.running import DoesNotRun, Run, check_runs
from mmnat.swap.optimizer import MODES
from mmnat.swap.written_config import write_config

#: The exit code if the new model runs only after the check has mended an installed package.
RUNS_ONLY_MENDED = 3


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        'mmnat swap', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path, or mmdet::... or mmseg::...')
    parser.add_argument('--backbone', required=True, metavar='NAME', help=f'one of {", ".join(NAMES)}')
    parser.add_argument(
        '--pretrained',
        default='published',
        metavar='FILE',
        help="weights of the backbone, by default the variant's published ImageNet weights, or 'none'",
    )
    parser.add_argument(
        '--optimizer',
        choices=MODES,
        default='keep',
        help="the config's own (default), or the published AdamW",
    )
    parser.add_argument('--out', metavar='NEW.py', help='write the new config, complete in itself')
    parser.add_argument('--force', action='store_true', help='overwrite NEW.py')
    parser.add_argument(
        '--check',
        action='store_true',
        help='build the model, run a loss step and a prediction on random data, count parameters and MACs;'
        ' if a fault of an installed package stops the model, mend it in memory, go on, and end with exit'
        f' code {RUNS_ONLY_MENDED}',
    )
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith('.py'):
        parser.error(f'--out must end in .py, got {args.out}')
    if args.out:
        args.out = osp.expanduser(args.out)
    return args


def check_out(out: str, config: str, force: bool) -> None:
    """Check before the swap that the new config can be written, and replaces no file that is needed."""
    if osp.exists(out) and not force:
        raise UserError(f'--out {out} exists', 'name another file, or give --force')
    check_kept([out], [find_config(config)], f'--out {out}')
    if osp.isdir(out):
        raise UserError(f'--out {out} is a folder', 'name a file in it')


def swapped(args: argparse.Namespace) -> tuple[Config, Config, Framework, Report]:
    """Read the config and swap its backbone.

    Returns:
        The config before and after, its framework, and what changed.
    """
    with redirect_stdout(StringIO()):  # frameworks print remarks
        cfg = read_config(args.config)
        loaded = load_framework(framework(cfg))
    pretrained = None if args.pretrained == 'none' else args.pretrained
    try:
        new, report = swap(cfg, loaded, args.backbone, pretrained, args.optimizer)
    except SwapRefused as refusal:
        raise UserError(f'{args.config}: {refusal}', 'nothing was written') from refusal
    return cfg, new, loaded, report


def check(cfg: Config, new: Config, loaded: Framework) -> Run:
    """Run the new model, and print what came of it and the sizes of both models."""
    try:
        run = check_runs(new, loaded.registry)
    except DoesNotRun as error:
        raise UserError(f'the swapped model does not run: {error}', 'nothing was written') from error
    if run.faults:
        print('the swapped model does not run with the installed packages, whatever its backbone:')
        print('\n'.join(f'  {fault}' for fault in run.faults))
        print('the check mended this in memory and went on; your own training or test will stop there')
    print('a loss step and a prediction ran on random data')
    for note in run.notes:
        print(f'  note: {note}')
    with quiet():
        table = comparison(cfg, new, loaded)
    rich.print(table)
    return run


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Swap the backbone of a config."""
    args = parse_args(argv)
    if args.out:
        check_out(args.out, args.config, args.force)
    cfg, new, loaded, report = swapped(args)
    print(f'{args.config}: {args.backbone} in the place of its backbone\n{report}')
    run = check(cfg, new, loaded) if args.check else None
    if args.out:
        write_config(new, args.out)
        print(f'written: {args.out}')
    if run is not None and run.faults:
        raise SystemExit(RUNS_ONLY_MENDED)
