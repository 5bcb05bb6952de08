"""Test a detector of mmdet or a segmentor of mmseg."""

import argparse
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.runner import Runner

from mmnat.checkpoints.safety import forbid_unsafe_loading
from mmnat.config import framework, require_fields
from mmnat.errors import UserError, report_user_errors
from mmnat.launch.distributed import configure_distribution
from mmnat.launch.options import add_config_options, load_config
from mmnat.launch.processes import end_together
from mmnat.launch.runner import build_runner
from mmnat.preflight.checks import check_testing
from mmnat.preflight.models import build_model
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
    parser.add_argument('--show-dir', help='save pictures of the predictions in this directory')
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


def _use_tta(cfg: Config) -> None:
    """Wrap the model and replace the pipeline, as mmdet's and mmseg's own launchers do."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline
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
    apply_options(cfg, args)
    configure_distribution(cfg)
    model = build_model(cfg)
    if args.tta:
        check_tta(cfg, model)
    check_testing(cfg, model)
    if args.tta:
        _use_tta(cfg)
    runner = build_runner(cfg)
    if args.out and framework(cfg) == 'mmdet':
        _dump_predictions(runner, args.out)
    runner.test()
