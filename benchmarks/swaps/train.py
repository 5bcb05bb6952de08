"""Train models of mmdet and mmseg from scratch, with their own ResNet and with NAT-Mini in its place.

Both models of a pair get the same images, optimizer and iterations; they differ only in what `mmnat swap`
changes. Interrupted and started again, this script goes on with the trainings that are not done. It
generates the data in data/demo; for data/fruits_nuts see the README.
"""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.lib.devices import Cpu
from benchmarks.lib.machine import describe_machine
from benchmarks.lib.tables import Table
from mmnat.atomic_file import check_writable
from mmnat.commands import swap as swap_backbone
from mmnat.commands.demo import DATA, SEED, TRAIN_IMAGES, VAL_IMAGES
from mmnat.complexity.models import count_parameters
from mmnat.config import read_config
from mmnat.data.label_maps import make_label_maps
from mmnat.data.scenes import make_demo_data
from mmnat.errors import UserError, report_user_errors
from mmnat.preflight.models import build_model
from mmnat.quiet import quiet
from mmnat.swap.written_config import write_config

from .pairs import DEMO_RECIPES, FRUITS_NUTS_RECIPES, PAIRS, Pair
from .small_data import small_config
from .training import Training

FRUITS_NUTS = Path('data/fruits_nuts')
LABEL_MAPS = Path('data/fruits_nuts_label_maps')  # as the config of the segmentor has it
BACKBONE = 'nat_mini'
METRICS = ('bbox_mAP', 'bbox_mAP_50', 'segm_mAP', 'segm_mAP_50', 'mIoU')
COLUMNS = (
    'pair',
    'config',
    'backbone',
    'parameters_millions',
    'iterations',
    'batch_size',
    *METRICS,
    'minutes',
)
PRINTED = {'pair': -24, 'backbone': -10, 'iterations': 10, **dict.fromkeys(METRICS, 11), 'minutes': 8}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [pair.name for pair in PAIRS]
    parser.add_argument(
        '--only', nargs='+', choices=names, default=names, metavar='PAIR', help=', '.join(names)
    )
    parser.add_argument('--report', type=Path, required=True, metavar='FILE.csv', help='file for the rows')
    parser.add_argument('--work-dir', type=Path, default='work_dirs/swaps', metavar='FOLDER')
    parser.add_argument(
        '--processes',
        type=int,
        default=len(os.sched_getaffinity(0)),
        help='parallel trainings, each on its share of the cores; by default one for each core',
    )
    args = parser.parse_args(argv)
    if args.processes < 1:
        parser.error('--processes must be positive')
    return args


def prepare(pair: Pair, folder: Path) -> dict[str, Training]:
    """Write the configs of a pair: its own and, by `mmnat swap`, the swapped one."""
    before, after = folder / pair.name / 'resnet.py', folder / pair.name / f'{BACKBONE}.py'
    write_config(small_config(pair), str(before))
    swap_backbone.main(
        [str(before), '--backbone', BACKBONE, '--pretrained', 'none', '--out', str(after), '--force']
    )
    return {path.stem: Training(path, path.with_suffix('')) for path in (before, after)}


def prepare_data(pairs: Sequence[Pair]) -> None:
    """Make the data that can be generated.

    Raises:
        UserError: If other data is missing.
    """
    if any(pair.recipe in FRUITS_NUTS_RECIPES for pair in pairs):
        if not FRUITS_NUTS.is_dir():
            raise UserError(
                f'{FRUITS_NUTS} does not exist',
                'put or link it there (docs/own_data/detector.md), or leave it out with --only',
            )
        if not LABEL_MAPS.is_dir():
            make_label_maps(FRUITS_NUTS / 'trainval.json', LABEL_MAPS, held_out=4)
    if any(pair.recipe in DEMO_RECIPES for pair in pairs):
        make_demo_data(DATA, TRAIN_IMAGES, VAL_IMAGES, SEED)


def parameters(config: Path) -> float:
    """Parameters of a config's model, in millions."""
    with quiet():
        return count_parameters(build_model(read_config(str(config)))) / 1e6


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Train all pairs."""
    args = parse_args(argv)
    check_writable(args.report)
    pairs = [pair for pair in PAIRS if pair.name in args.only]
    prepare_data(pairs)
    threads = max(1, len(os.sched_getaffinity(0)) // args.processes)
    jobs = [(pair, name, job) for pair in pairs for name, job in prepare(pair, args.work_dir).items()]
    table = Table(COLUMNS, PRINTED)
    with ThreadPoolExecutor(args.processes) as pool:
        results = pool.map(lambda job: job[2].result() or job[2].run(threads), jobs)
        for (pair, name, job), result in zip(jobs, results, strict=True):
            row = dict(pair=pair.name, config=pair.config, backbone=name, iterations=pair.iterations)
            row |= dict(batch_size=pair.batch_size, parameters_millions=parameters(job.config))
            table.add(row | {key: value for key, value in result.items() if key in COLUMNS})
    table.write(args.report, describe_machine([threads], Cpu()))


if __name__ == '__main__':
    main()
