"""Train a small NAT on generated scenes, evaluate it and draw what it found.

It writes to data/demo and work_dirs in the current folder. If it is interrupted, the next run goes on where
it stopped; if it is done, the next run only evaluates.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmnat.config import parse_config
from mmnat.data.scenes import make_demo_data
from mmnat.errors import UserError, report_user_errors
from mmnat.launch.processes import end_with_parent

DATA = Path('data/demo')
TRAIN_IMAGES, VAL_IMAGES, SEED = 400, 80, 0
PICTURES = 12


@dataclass(frozen=True)
class Demo:
    """One demonstration.

    Attributes:
        config: The config, by its name.
        least: What the metrics have to reach, by their name in the log.
    """

    config: str
    least: dict[str, float]

    @property
    def work_dir(self) -> Path:
        """The folder of everything that is not data."""
        return Path('work_dirs') / self.config


DEMOS = {
    'detection': Demo(
        'mask-rcnn_nat-demo_fpn_demo-instances',
        {'coco/bbox_mAP_50': 0.5, 'coco/segm_mAP_50': 0.5},
    ),
    'segmentation': Demo('nat-demo_upernet_demo-scenes', {'mIoU': 60.0}),
}


def run_command(name: str, *arguments: str | Path) -> None:
    """Run another command of mmnat; raises UserError with its exit code if it fails."""
    print('$ mmnat', name, *arguments[:2], '...', flush=True)
    command = [sys.executable, '-m', 'mmnat', name, *map(str, arguments)]
    code = subprocess.run(command, preexec_fn=end_with_parent).returncode
    if code:
        raise UserError(f'mmnat {name} ended with exit code {code}', 'see its messages above')


def check_work_dir(demo: Demo) -> None:
    """Refuse a work directory that another version of the demo trained in; mark a new one."""
    config = parse_config(demo.config, import_custom_modules=False)
    settings = json.dumps([config.pretty_text, TRAIN_IMAGES, SEED])
    mark = demo.work_dir / 'demo.json'
    if mark.is_file() and mark.read_text() != settings:
        raise UserError(f'{demo.work_dir} was trained with other settings', 'remove or rename it')
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(settings)


def train(demo: Demo) -> Path:
    """Train, or go on training, and return the last checkpoint."""
    resume = ['--resume'] if (demo.work_dir / 'last_checkpoint').is_file() else []
    run_command('train', demo.config, '--work-dir', demo.work_dir, *resume)
    return Path((demo.work_dir / 'last_checkpoint').read_text())


def evaluate(demo: Demo, checkpoint: Path) -> dict[str, float]:
    """Evaluate on the held-out scenes and return the metrics that the log has."""
    results = demo.work_dir / 'evaluation'
    run_command('test', demo.config, checkpoint, '--work-dir', results)
    log = max(results.glob('*/*.json'), key=lambda path: path.stat().st_mtime)
    return json.loads(log.read_text().splitlines()[-1])


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run a demonstration."""
    parser = argparse.ArgumentParser(
        'mmnat demo', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('task', choices=DEMOS, nargs='?', default='detection')
    demo = DEMOS[parser.parse_args(argv).task]
    start = time.monotonic()
    if 'MAKELEVEL' in os.environ:
        end_with_parent()  # make
    check_work_dir(demo)
    make_demo_data(DATA, TRAIN_IMAGES, VAL_IMAGES, SEED)
    checkpoint = train(demo)
    metrics = evaluate(demo, checkpoint)
    pictures = demo.work_dir / 'predictions'
    images = sorted((DATA / 'val').glob('*.jpg'))[:PICTURES]
    run_command('predict', demo.config, checkpoint, *images, '--out-dir', pictures, '--score-thr', '0.5')
    run_command('plot', demo.work_dir)

    print(f'\nDone in {(time.monotonic() - start) / 60:.1f} minutes.')
    # A detector that finds nothing has no metrics.
    reached = {name: metrics.get(name, 0.0) for name in demo.least}
    for name, least in demo.least.items():
        print(f'  {name:18} {reached[name]:.3f}   (expected: at least {least})')
    print(f'  pictures           {pictures}/')
    print(f'  curves             {demo.work_dir / "curves.png"}')
    print(f'  checkpoint         {checkpoint}')
    missed = [name for name, least in demo.least.items() if not reached[name] >= least]
    if missed:
        raise UserError(f'{" and ".join(missed)} is lower than expected', 'please report it')
