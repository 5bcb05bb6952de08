"""Test a detector of mmdet or a segmentor of mmseg."""

import argparse
import os.path as osp
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mmnat.atomic_file import check_writable
from mmnat.checkpoints.safety import forbid_unsafe_loading
from mmnat.config import complete_palette, framework, leaf_datasets, require_fields
from mmnat.config_files import check_dump
from mmnat.errors import UserError, report_user_errors
from mmnat.evaluation_files import ImageFiles
from mmnat.launch.agreement import ready_together
from mmnat.launch.distributed import configure_distribution, name_processes
from mmnat.launch.options import add_config_options, load_config
from mmnat.launch.processes import end_together
from mmnat.launch.runner import build_runner
from mmnat.output_files import check_kept
from mmnat.preflight.checks import check_testing
from mmnat.preflight.models import build_model
from mmnat.preflight.structure import check_structure
from mmnat.preflight.tta import check_tta


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
        for dataset in leaf_datasets(cfg.test_dataloader.dataset):
            if 'metainfo' in dataset:
                dataset['metainfo'] = complete_palette(dataset['metainfo'])
    else:
        cfg.visualizer.save_dir = folder


def _save_label_maps(cfg: Config, folder: str) -> None:
    if not isinstance(cfg.test_evaluator, dict):
        raise UserError('--out needs a single test_evaluator', 'remove the others from the config')
    cfg.test_evaluator.update(output_dir=folder, keep_results=True)


def check_image_files(cfg: Config, args: argparse.Namespace) -> ImageFiles | None:
    """Check that pictures and label maps replace no input, and that no two images share one.

    Returns:
        The files for each image; None if none are written.

    Raises:
        UserError: If an input would be replaced, or a file written twice.
    """
    is_detector = framework(cfg) == 'mmdet'
    folders = [] if is_detector else _label_map_folders(cfg)
    if not (args.show_dir or folders):
        return None
    files = ImageFiles(cfg)
    for folder in folders:
        option = f'--out {args.out}' if args.out else f'test_evaluator.output_dir = {folder!r}'
        if osp.exists(folder) and not osp.isdir(folder):
            raise UserError(f'{option} is a file', 'name a folder for the label maps')
        files.check(folder, option, '.png')
    if args.show_dir and is_detector:
        # mmdet joins the folder to that of the run, whose name is not known yet.
        files.check(
            osp.join(osp.abspath(cfg.work_dir), 'run', args.show_dir), f'--show-dir {args.show_dir}'
        )
    elif args.show_dir:
        # mmengine also writes the config there.
        check_dump(osp.join(args.show_dir, 'config.py'), f'--show-dir {args.show_dir}')
    return files


def check_predictions(args: argparse.Namespace) -> None:
    """Check that the file of a detector's predictions can be written, and replaces no input."""
    check_kept([args.out], [args.config, args.checkpoint], f'--out {args.out}')
    check_writable(Path(args.out))


def _label_map_folders(cfg: Config) -> list[str]:
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    return [evaluator['output_dir'] for evaluator in evaluators if evaluator.get('output_dir')]


def _use_tta(cfg: Config) -> None:
    """Wrap the model and replace the pipeline, as mmdet's and mmseg's own launchers do."""
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        dataset['pipeline'] = cfg.tta_pipeline
    cfg.model = dict(cfg.tta_model, module=cfg.model)


def _dump_predictions(runner: Runner, path: str) -> None:
    from mmdet.evaluation import DumpDetResults

    runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=path))


def prepare(args: argparse.Namespace) -> tuple[Config, ImageFiles | None]:
    """Read the config, apply the options and check everything.

    Args:
        args: Parsed options.

    Returns:
        The config, and the files for each image, if any are written.
    """
    cfg = load_config(args)
    require_fields(cfg, 'model', 'test_dataloader', 'test_cfg', 'test_evaluator')
    check_structure(cfg)
    check_dump(osp.join(cfg.work_dir, osp.basename(cfg.filename)), f'work_dir {cfg.work_dir}')
    apply_options(cfg, args)
    configure_distribution(cfg)
    model = build_model(cfg)
    if args.tta:
        check_tta(cfg, model)
    check_testing(cfg, model)
    files = check_image_files(cfg, args)
    if args.out and framework(cfg) == 'mmdet':
        check_predictions(args)
    return cfg, files


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Test the model of a config."""
    args = parse_args(argv)
    end_together()
    forbid_unsafe_loading()
    name_processes(args.launcher)
    with ready_together(args.launcher):
        cfg, files = prepare(args)
    if args.tta:
        _use_tta(cfg)
    runner = build_runner(cfg)
    if args.out and framework(cfg) == 'mmdet':
        _dump_predictions(runner, args.out)
    if files is not None:
        files.sort(runner)
    runner.test()
