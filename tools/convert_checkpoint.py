"""Turn a published checkpoint of NAT, DiNAT or DiNAT_s into one for mmdet 3.x and mmseg 1.x.

Takes classifiers, detectors and segmentors of the NAT release (mmdet 2.x, mmseg 0.x, Detectron2's
Mask2Former) and Hugging Face's nat and dinat, and finds out itself which of them a file is. What it writes
serves as `load_from`, in `init_cfg=dict(type='Pretrained', checkpoint=...)` and for the other tools here.
"""

import argparse
import os.path as osp
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from convert.comparison import fit
from convert.expected import configured_model, expected_by, expected_of
from convert.layouts import layout_of
from convert.source import read_source
from launcher.checkpoints import forbid_unsafe_loading
from launcher.errors import UserError, report_user_errors
from replaced_file import check_writable, replacing


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint.

    Attributes:
        checkpoint: What is written.
        report: What was done, in lines.
    """

    checkpoint: dict
    report: list[str]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='the published checkpoint, a file or a URL')
    parser.add_argument('dst', help='the file to write')
    parser.add_argument(
        '--config',
        help='config of the model that the checkpoint is of, by default one that its weights tell; a'
        ' Mask2Former becomes one of the framework of the config, by default of mmdet',
    )
    parser.add_argument('--force', action='store_true', help='replace the file to write')
    return parser.parse_args(argv)


def check_destination(src: str, dst: str, force: bool) -> None:
    """Check before anything is read that the file can be written; raises UserError if not."""
    folder = osp.dirname(dst) or '.'
    if not osp.isdir(folder):
        raise UserError(f'folder {folder} of {dst} does not exist', 'make it first, or name another')
    if osp.realpath(src) == osp.realpath(dst):
        raise UserError(f'{dst} is the checkpoint to convert', 'name another file to write')
    if osp.isdir(dst):
        raise UserError(f'{dst} is a folder', 'name a file in it')
    if osp.exists(dst) and not force:
        raise UserError(f'{dst} exists', 'name another file to write, or replace it with --force')
    check_writable(Path(dst))


def convert(src: str, config: str | None) -> Converted:
    """Read a checkpoint, convert it, and compare it with the model that it is for.

    Args:
        src: The checkpoint.
        config: The config of that model, or None to infer it from the weights.
    """
    source = read_source(src)
    layout = layout_of(source.weights, src)
    model = configured_model(config) if config else None
    conversion = layout.convert(source.weights, model)
    if model is None:
        expected = expected_of(conversion.weights, src)
    else:
        expected = expected_by(config, model, conversion.weights)
    fitting = fit(conversion.weights, expected, src)
    report = [
        f'{src}: {layout.name}',
        f'fits {expected.description}',
        *(conversion.steps or ['renamed: nothing']),
        f'dropped: {_listed([*conversion.dropped, *fitting.unused])}',
        f'left for the model to initialise: {_listed(fitting.missing)}',
        f'left out of the rest of the file: {_listed(source.left_out)}',
        f'names of classes: {len(source.classes) or "none"}',
    ]
    return Converted(dict(state_dict=fitting.weights, meta=source.meta), report)


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names) or 'nothing'


def write(checkpoint: dict, dst: str) -> None:
    """Write a checkpoint, so that a file of that name is always complete."""
    with replacing(Path(dst)) as unfinished, open(unfinished, 'wb') as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # what torch makes of a full disk
            reason = str(error).splitlines()[0]
            raise UserError(f'{dst} cannot be written: {reason}', 'make room, or choose another') from error


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Convert a checkpoint and tell what was done."""
    args = parse_args(argv)
    check_destination(args.src, args.dst, args.force)
    forbid_unsafe_loading()
    converted = convert(args.src, args.config)
    write(converted.checkpoint, args.dst)
    print(*converted.report, sep='\n')
    print(f'{args.dst}: {len(converted.checkpoint["state_dict"])} tensors')


if __name__ == '__main__':
    main()
