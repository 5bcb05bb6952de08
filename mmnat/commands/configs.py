"""List the configs that come with mmnat, with the published figures of their models."""

import argparse
from collections.abc import Sequence
from fnmatch import fnmatch

from mmnat.config_files import own_configs, project_folder
from mmnat.errors import UserError, report_user_errors
from mmnat.zoo import PublishedModel, published_models

COLUMNS = ('config', 'params', 'MACs', 'published results')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser('mmnat configs', description=__doc__)
    parser.add_argument(
        'pattern', nargs='?', default='', help='part of the names, or a pattern such as "mask-rcnn*coco"'
    )
    return parser.parse_args(argv)


def rows(pattern: str) -> list[tuple[str, ...]]:
    """One row for each config whose name has the pattern.

    Raises:
        UserError: If there is none.
    """
    wanted = pattern.removesuffix('.py')
    files = [file for file in own_configs() if wanted in file.stem or fnmatch(file.stem, wanted)]
    if not files:
        raise UserError(f'no config has {pattern!r} in its name', 'run `mmnat configs` to see all')
    models = published_models()
    return [(file.stem, *_figures(models.get(str(file.relative_to(project_folder()))))) for file in files]


def _figures(model: PublishedModel | None) -> tuple[str, str, str]:
    if model is None:
        return '', '', 'not published: for own data, or a demo'
    results = [
        f'{name} {value:.1f}' for metrics in model.results.values() for name, value in metrics.items()
    ]
    return f'{model.params:.0f} M', f'{model.macs:.0f} G', ', '.join(results)


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Print the list."""
    table = [COLUMNS, *rows(parse_args(argv).pattern)]
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS) - 1)]
    for name, params, macs, results in table:
        print(f'{name:<{widths[0]}}  {params:>{widths[1]}}  {macs:>{widths[2]}}  {results}'.rstrip())
    print(f'\nin {project_folder() / "configs"}; a config is named as here, without its path')
