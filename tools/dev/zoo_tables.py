"""The tables of published models in the READMEs, between markers."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmnat.errors import UserError
from mmnat.zoo import PublishedModel

Row = Mapping[str, Any]

_HEAD = (
    '| model | params: here (published) | MACs: here (published) | published results | weights |',
    '|---|---|---|---|---|',
)


def models_table(models: Iterable[PublishedModel], measured: Mapping[str, Row], folder: str) -> str:
    """Write the table of some models.

    Args:
        models: the models.
        measured: what mmnat count measured, by config file.
        folder: of the README, relative to the project, to which the links are relative.
    """
    lines = list(_HEAD)
    for model in models:
        link = model.config if not folder else model.config.removeprefix(f'{folder}/')
        row = measured[model.config]
        cells = [
            f'[{model.architecture}, {model.backbone}, {task_name(model)}]({link})',
            f'{row["params"]:.1f} M ({model.params:.0f} M)',
            f'{row["macs"]:.1f} G ({model.macs:.0f} G)',
            ', '.join(_results(model)),
            f'[weights]({model.weights})',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def task_name(model: PublishedModel) -> str:
    """Name the data set, and the task if an architecture solves several."""
    if model.architecture != 'Mask2Former':
        return model.dataset
    return f'{model.dataset} {next(iter(model.results)).split()[0].lower()}'


def _results(model: PublishedModel) -> Iterable[str]:
    for metrics in model.results.values():
        for name, value in metrics.items():
            yield f'{name} {value:.1f}'


def classifiers_table(classifiers: Mapping[str, Any], measured: Mapping[str, Row]) -> str:
    """Write the table of the pretrained backbones.

    Args:
        classifiers: mmnat.models.published.CLASSIFIERS.
        measured: what mmnat count measured, by name.
    """
    lines = [
        '| backbone | image | params: here (published) | MACs: here (published) | top-1 | weights |',
        '|---|---|---|---|---|---|',
    ]
    for name, model in classifiers.items():
        row = measured[name]
        kernel = '' if model.kernel_size == 7 else f', kernel {model.kernel_size}'
        cells = [
            f'{model.backbone.__name__}-{model.arch.capitalize()}{kernel}',
            f'{model.resolution}x{model.resolution}',
            f'{row["params"]:.1f} M ({model.params:.0f} M)',
            f'{row["macs"]:.2f} G ({model.macs:.1f} G)',
            f'{model.top1:.1f}',
            f'[weights]({model.checkpoint})',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def replace_table(text: str, name: str, table: str, path: Path) -> str:
    """Put a table between ``<!-- name -->`` and ``<!-- end of name -->`` in a README's text.

    Raises:
        UserError: If the text lacks the markers.
    """
    begin, end = f'<!-- {name} -->\n', f'\n<!-- end of {name} -->'
    pattern = re.compile(f'(?<={re.escape(begin)}).*?(?={re.escape(end)})', re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise UserError(f'{path} lacks the markers {begin.strip()} and {end.strip()}', 'put them in')
    return pattern.sub(lambda _: table, text)
