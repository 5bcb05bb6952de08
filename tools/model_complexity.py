"""Count parameters and multiply-accumulates of configs and set them beside the published figures.

Counted on tensors without memory: neither weights nor a GPU are needed, and a model takes about a second.
What counts is said in tools/complexity/models.py.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from complexity.classifiers import measure_classifier
from complexity.models import build_without_memory, count_macs, count_parameters
from launcher.config import framework, read_config
from launcher.errors import UserError, report_user_errors
from mmengine.config import Config
from model_zoo.metafiles import ROOT, published_models

from nat_backbones.published import CLASSIFIERS

Row = dict[str, Any]

DETECTION_SIZE = (800, 1280)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='config files')
    parser.add_argument('--all', action='store_true', help='all published models, and the classifiers')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the image; by default that of the published figures, else 800 1280 for a detector and '
        'the size of the test pipeline or of the crops for a segmentor',
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    args = parser.parse_args(argv)
    if args.all == bool(args.configs):
        parser.error('name configs, or give --all')
    if args.size and min(args.size) < 1:
        parser.error(f'--size must be positive, got {args.size[0]} {args.size[1]}')
    return args


def measure_config(path: str, size: tuple[int, int] | None = None) -> Row:
    """Count a config's model, and find its published figures.

    Args:
        path: the config file.
        size: height and width of the image, None for the default.

    Returns:
        Parameters in millions and multiply-accumulates in billions, ``params`` and ``macs``; the latter by
        part, ``parts``; where the model was published, ``published_params`` and ``published_macs``.
    """
    cfg = read_config(path)
    published = published_models().get(_relative(path))
    of_published = published is not None and size in (None, published.size)
    if size is None:
        size = published.size if published else _default_size(cfg)
    model = build_without_memory(cfg)
    params = count_parameters(model)
    parts = count_macs(model, size)
    row = _row(_relative(path), size, params, sum(parts.values()), parts)
    if of_published:
        row.update(published_params=published.params, published_macs=published.macs)
    return row


def measure_all() -> Iterator[Row]:
    """Count the published models and the classifiers that our backbones cover."""
    for config in published_models():
        yield measure_config(str(ROOT / config))
    for name, classifier in CLASSIFIERS.items():
        size = (classifier.resolution, classifier.resolution)
        row = _row(name, size, *measure_classifier(classifier), {})
        yield row | dict(published_params=classifier.params, published_macs=classifier.macs)


def _row(name: str, size: tuple[int, int], params: int, macs: int, parts: dict[str, int]) -> Row:
    parts = {part: round(count / 1e9, 3) for part, count in parts.items()}
    return dict(
        model=name,
        height=size[0],
        width=size[1],
        params=round(params / 1e6, 3),
        macs=round(macs / 1e9, 3),
        parts=parts,
    )


def _relative(path: str) -> str:
    file = Path(path).resolve()
    return str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else path


def _default_size(cfg: Config) -> tuple[int, int]:
    if framework(cfg) == 'mmdet':
        return DETECTION_SIZE
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    for transform in dataset.get('pipeline') or []:
        if transform.get('type') == 'Resize' and isinstance(transform.get('scale'), (tuple, list)):
            return min(transform.scale), max(transform.scale)
    crop = cfg.model.get('data_preprocessor', {}).get('size')
    if crop is None:
        raise UserError(f'config {cfg.filename} names no size of images', 'give --size HEIGHT WIDTH')
    return tuple(crop)


def _line(row: Row) -> str:
    cells = [f'{row["height"]}x{row["width"]}', f'{row["params"]:.1f} M', f'{row["macs"]:.1f} G']
    if 'published_macs' in row:
        difference = row['macs'] / row['published_macs'] - 1
        cells += [f'{row["published_params"]:.0f} M', f'{row["published_macs"]:g} G', f'{difference:+.1%}']
    return _columns(Path(row['model']).name, cells)


def _columns(name: str, cells: Sequence[str]) -> str:
    return ' '.join([name.ljust(64), *(cell.rjust(9) for cell in cells)])


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Count what the command line names."""
    args = parse_args(argv)
    size = tuple(args.size) if args.size else None
    rows = measure_all() if args.all else (measure_config(path, size) for path in args.configs)
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # where what the frameworks print does not mix with the results
        if args.json:
            print(json.dumps(list(rows), indent=2), file=output)
            return
        heads = ('image', 'params', 'MACs', 'published', 'published', 'MACs')
        print(_columns('model', heads), file=output)
        for row in rows:
            print(_line(row), file=output, flush=True)


if __name__ == '__main__':
    main()
