"""Check that configs, metafiles and READMEs agree on the published models.

Every config is built and counted, and its recipe compared with the metafile. ``--write`` brings the tables
in the READMEs up to date instead of comparing them.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import yaml
from mmengine.config import Config
from modelindex.load_model_index import load as load_index
from zoo_tables import classifiers_table, models_table, replace_table

from mmnat.complexity.measure import Row, measure_all
from mmnat.config import read_config
from mmnat.config_files import project_folder
from mmnat.errors import report_user_errors
from mmnat.models.published import CLASSIFIERS
from mmnat.zoo import INDEX, PublishedModel, metafiles, published_models

# How far multiply-accumulates may be from the published ones. The papers do not say on which input those of
# Mask2Former were counted.
MACS_TOLERANCE = {'Mask2Former': 0.03}
DEFAULT_TOLERANCE = 0.01
# Published parameters are whole millions; those of DiNAT-Large are rounded to tens.
CLASSIFIER_TOLERANCE = 0.03
ROOT = project_folder()
NO_ZOO = ('_base_', 'demo', 'fruits_nuts')


def check_index() -> Iterator[str]:
    """Compare the metafiles with the configs that there are."""
    # OpenMMLab's paths begin at the project, modelindex's at the metafile.
    problems = load_index(str(ROOT / INDEX)).check(silent=True)
    yield from (problem for problem in problems if 'Path to README' not in problem)
    for metafile in metafiles():
        for collection in yaml.safe_load((ROOT / metafile).read_text())['Collections']:
            if not (ROOT / collection['README']).is_file():
                yield f'{metafile}: README {collection["README"]} does not exist'
    models = published_models()
    configs = {
        str(path.relative_to(ROOT))
        for path in (ROOT / 'configs').glob('*/*.py')
        if path.parent.name not in NO_ZOO
    }
    for config in sorted(configs - models.keys()):
        yield f'{config} is in no metafile'
    for config in sorted(models.keys() - configs):
        yield f'{models[config].metafile} lists {config}, which does not exist'
    for config, model in models.items():
        if Path(config).stem != model.name:
            yield f'{model.metafile}: {model.name} has another name than its config {config}'


def check_recipe(model: PublishedModel, cfg: Config) -> Iterator[str]:
    """Compare a config with its metafile."""
    found = dict(
        epochs=cfg.train_cfg.get('max_epochs'),
        iterations=cfg.train_cfg.get('max_iters'),
        batch_size=cfg.auto_scale_lr.base_batch_size,
        backbone=f'{cfg.model.backbone.type}-{cfg.model.backbone.arch.capitalize()}',
    )
    for name, value in found.items():
        if value != getattr(model, name):
            yield f'{model.config} has {name} {value}, {model.metafile} {getattr(model, name)}'


def check_complexity(row: Row, tolerance: float, exact_params: bool) -> Iterator[str]:
    """Compare a model's parameters and multiply-accumulates with the published ones."""
    params, published = row['params'], row['published_params']
    differs = round(params) != published if exact_params else abs(params / published - 1) > tolerance
    if differs:
        yield f'{row["model"]} has {params} M parameters, published are {published:.0f} M'
    if abs(row['macs'] / row['published_macs'] - 1) > tolerance:
        yield f'{row["model"]} takes {row["macs"]} G MACs, published are {row["published_macs"]:g} G'


def readmes(measured: Mapping[str, Row]) -> Iterator[tuple[Path, str]]:
    """Yield the READMEs and their text with tables that are up to date."""
    models = published_models().values()
    for metafile in metafiles():
        folder = str(Path(metafile).parent)
        path = ROOT / folder / 'README.md'
        table = models_table((m for m in models if m.metafile == metafile), measured, folder)
        yield path, replace_table(path.read_text(), 'models', table, path)
    path = ROOT / 'configs/README.md'
    yield path, replace_table(path.read_text(), 'backbones', classifiers_table(CLASSIFIERS, measured), path)


def check() -> Iterator[str]:
    """Yield everything that disagrees, but for the READMEs."""
    yield from check_index()
    for model in published_models().values():
        yield from check_recipe(model, read_config(str(ROOT / model.config)))


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Check, or write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--write', action='store_true', help='bring the tables up to date')
    args = parser.parse_args(argv)
    with redirect_stdout(sys.stderr):  # what the frameworks print
        problems = list(check())
        measured = {row['model']: row for row in measure_all()}
    for name, row in measured.items():
        model = published_models().get(name)
        if model is None:
            problems += check_complexity(row, CLASSIFIER_TOLERANCE, exact_params=False)
        else:
            tolerance = MACS_TOLERANCE.get(model.architecture, DEFAULT_TOLERANCE)
            problems += check_complexity(row, tolerance, exact_params=True)
    for path, text in readmes(measured):
        if args.write:
            path.write_text(text)
        elif path.read_text() != text:
            problems.append(f'the tables of {path.relative_to(ROOT)} are out of date; give --write')
    for problem in problems:
        print(f'error: {problem}', file=sys.stderr)
    if problems:
        raise SystemExit(1)
    print(f'{len(published_models())} models and {len(CLASSIFIERS)} backbones agree')


if __name__ == '__main__':
    main()
