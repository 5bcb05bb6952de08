"""Make label maps for mmseg from the masks of a COCO annotation file.

Label 0 is the background, label k the category with the k-th smallest id. If masks overlap, the smaller one
lies on top. OUT gets a PNG for every image, with the same name, and the lists train.txt and val.txt, which
mmseg takes as ann_file.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmnat.data.label_maps import make_label_maps
from mmnat.errors import report_user_errors


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        'mmnat label-maps', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('annotations', type=Path, metavar='FILE.json', help='in COCO format, with masks')
    parser.add_argument('out', type=Path, metavar='OUT', help='a folder, which must not exist')
    parser.add_argument(
        '--held-out', type=int, default=0, metavar='N', help='the last N images go to val.txt (default: 0)'
    )
    return parser.parse_args(argv)


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Make label maps."""
    args = parse_args(argv)
    classes = make_label_maps(args.annotations, args.out, args.held_out)
    print(f'{args.out}: classes = {tuple(classes)}')
