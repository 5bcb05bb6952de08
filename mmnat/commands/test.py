"""Test a detector of mmdet or a segmentor of mmseg."""

import argparse
import os.path as osp
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mmnat.atomic_file import check_writable
from mmnat.checkpoints.safety import forbid_unsafe_loading
from mmnat.config import framework, leaf_datasets, require_fields
from mmnat.config_files import check_dump
from mmnat.errors import UserError, report_user_errors
from mmnat.evaluation_files import ImageFiles
from mmnat.launch.distributed import configure_distribution
from mmnat.launch.options import add_config_options, load_config
from mmnat.launch.processes import end_together
from mmnat.launch.runner import build_runner
from mmnat.output_files import check_kept
from mmnat.preflight.checks import check_testing
from mmnat.preflight.models import build_model


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser('mmnat test', description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_config_options(parser)
    parser.add_argument(
        '--out', help='save the predictions: a .pkl file (mmdet) or a folder of label maps (mmseg)'
    )
    parser.add_argument(
        '--show-dir',
        help='save pictures of the predictions in this directory; if images in several folders have one'
        ' name, their pictures and label maps go into folders, too',
    )
    parser.add_argument('--tta', action='store_true', help='test with augmentation')
    return parser.parse_args(argv)


def apply_options(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the command line options that only testing has."""
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.show_dir:
        _save_pictures(cfg, args.show_dir)
    if args.out and framework(cfg) == 'mmdet' and not args.out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {args.out} is no .pkl or .pickle file', 'name such a file')
    if args.out and framework(cfg) == 'mmseg':
        _save_label_maps(cfg, args.out)
    if args.tta:
        require_fields(cfg, 'tta_model', 'tta_pipeline')


def _save_pictures(cfg: Config, folder: str) -> None:
    if cfg.get('default_hooks', {}).get('visualization') is None:
        raise UserError(
            '--show-dir finds no default_hooks.visualization in the config',
            "add visualization=dict(type='DetVisualizationHook') or 'SegVisualizationHook'",
        )
    cfg.default_hooks.visualization.draw = True
    if framework(cfg) == 'mmdet':
        cfg.default_hooks.visualization.test_out_dir = folder
    else:
        cfg.visualizer.save_dir = folder


def _save_label_maps(cfg: Config, folder: str) -> None:
    if not isinstance(cfg.test_evaluator, dict):
        raise UserError('--out needs a single test_evaluator', 'remove the others from the config')
    cfg.test_evaluator.update(output_dir=folder, keep_results=True)


def check_outputs(cfg: Config, args: argparse.Namespace) -> ImageFiles | None:
    """Check that what the test writes replaces no input, and that no file is written twice.

    Returns:
        The names of the files for each image; None if no such files are written.

    Raises:
        UserError: If it does.
    """
    is_detector = framework(cfg) == 'mmdet'
    if args.out and is_detector:
        check_kept([args.out], [args.config, args.checkpoint], f'--out {args.out}')
        check_writable(Path(args.out))
    if not (args.show_dir or (args.out and not is_detector)):
        return None
    files = ImageFiles(cfg)
    if args.out and not is_detector:
        if osp.exists(args.out) and not osp.isdir(args.out):
            raise UserError(f'--out {args.out} is a file', 'name a folder for the label maps')
        files.check(args.out, f'--out {args.out}', '.png')
    if args.show_dir and is_detector:
        # mmdet joins the folder to that of the run, whose name is not known yet.
        folder = osp.join(osp.abspath(cfg.work_dir), 'run', args.show_dir)
        files.check(folder, f'--show-dir {args.show_dir}')
    elif args.show_dir:
        # mmengine also writes the config there.
        check_dump(osp.join(args.show_dir, 'config.py'), f'--show-dir {args.show_dir}')
    return files


def _use_tta(cfg: Config) -> None:
    """Wrap the model and replace the pipeline, as mmdet's and mmseg's own launchers do."""
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        dataset['pipeline'] = cfg.tta_pipeline
    cfg.model = dict(cfg.tta_model, module=cfg.model)


def _dump_predictions(runner: Runner, path: str) -> None:
    from mmdet.evaluation import DumpDetResults

    runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=path))


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Test the model of a config."""
    args = parse_args(argv)
    end_together()
    forbid_unsafe_loading()
    cfg = load_config(args)
    require_fields(cfg, 'model', 'test_dataloader', 'test_cfg', 'test_evaluator')
    check_dump(osp.join(cfg.work_dir, osp.basename(cfg.filename)), f'work_dir {cfg.work_dir}')
    apply_options(cfg, args)
    configure_distribution(cfg)
    check_testing(cfg, build_model(cfg))
    files = check_outputs(cfg, args)
    if args.tta:
        _use_tta(cfg)
    runner = build_runner(cfg)
    if args.out and framework(cfg) == 'mmdet':
        _dump_predictions(runner, args.out)
    if files is not None:
        files.sort(runner)
    runner.test()
