"""Convert a published checkpoint of NAT, DiNAT or DiNAT_s for mmdet 3.x and mmseg 1.x.

Takes classifiers, detectors and segmentors of the NAT release (mmdet 2.x, mmseg 0.x, Detectron2's
Mask2Former) and Hugging Face's nat and dinat. It detects the format and the architecture. Use the new file
as `load_from`, in `init_cfg=dict(type='Pretrained', checkpoint=...)` and with the other commands.
"""

import argparse
import os.path as osp
from collections.abc import Sequence
from pathlib import Path

from mmnat.atomic_file import check_writable
from mmnat.checkpoints.safety import forbid_unsafe_loading
from mmnat.config_files import find_config
from mmnat.convert.checkpoint import convert, write
from mmnat.errors import UserError, printable, report_user_errors
from mmnat.output_files import check_kept


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        'mmnat convert', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='the published checkpoint, a file or a URL')
    parser.add_argument('dst', help='the file to write')
    parser.add_argument(
        '--config',
        help='config of the model of the checkpoint; by default the model is inferred from the weights. A'
        ' Mask2Former is converted for the framework of the config, by default for mmdet',
    )
    parser.add_argument('--force', action='store_true', help='replace the file to write')
    return parser.parse_args(argv)


def check_destination(src: str, dst: str, force: bool, config: str | None = None) -> None:
    """Check that the file can be written, before anything is read; raises UserError if not."""
    folder = osp.dirname(dst) or '.'
    if not osp.isdir(folder):
        raise UserError(f'folder {folder} of {dst} does not exist', 'make it first, or name another')
    if osp.realpath(src) == osp.realpath(dst):
        raise UserError(f'{dst} is the checkpoint to convert', 'name another file to write')
    if config:
        check_kept([dst], [find_config(config)], dst)
    if osp.isdir(dst):
        raise UserError(f'{dst} is a folder', 'name a file in it')
    if osp.exists(dst) and not force:
        raise UserError(f'{dst} exists', 'name another file to write, or replace it with --force')
    check_writable(Path(dst))


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Convert a checkpoint, and print what was done."""
    args = parse_args(argv)
    check_destination(args.src, args.dst, args.force, args.config)
    forbid_unsafe_loading()
    converted = convert(args.src, args.config)
    write(converted.checkpoint, args.dst)
    print(*map(printable, converted.report), sep='\n')
    print(f'{args.dst}: {len(converted.checkpoint["state_dict"])} tensors')
