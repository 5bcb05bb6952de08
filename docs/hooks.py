"""What `mkdocs build` generates: the help of the commands and the tables of the model zoo.

A page asks for it with a comment on a line of its own: ``<!-- help: train -->``,
``<!-- models: configs/nat -->`` or ``<!-- classifiers -->``.
"""

import argparse
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
HELP = re.compile(r'^<!-- help: (\S+) -->$', re.MULTILINE)
MODELS = re.compile(r'^<!-- models: (\S+) -->$', re.MULTILINE)
CLASSIFIERS = '<!-- classifiers -->'
TABLE_OF_MODELS = re.compile(r'<!-- models -->\n(.*?)\n<!-- end of models -->', re.DOTALL)
LINK_TO_CONFIG = re.compile(r'\[([^]]+)\]\(([^)]+)\.py\)')
# Links from an included README to a file of the repository.
LINK_TO_FILE = re.compile(r'\[([^]]+)\]\((?!https?:|#)[^)]*\)')


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the comments by what they ask for; mkdocs calls it for every page."""
    markdown = HELP.sub(lambda match: help_of(match[1]), markdown)
    markdown = MODELS.sub(lambda match: models_of(match[1]), markdown)
    if CLASSIFIERS in markdown:
        markdown = markdown.replace(CLASSIFIERS, classifiers())
    return markdown


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command, caught when the command parses its command line."""

    class Caught(Exception):
        """Ends the command."""

    def catch(parser: argparse.ArgumentParser, *_: Any) -> None:
        caught.append(parser)
        raise Caught

    caught = list[argparse.ArgumentParser]()
    module = import_module(f'mmnat.commands.{command.replace("-", "_")}')
    with mock.patch.object(argparse.ArgumentParser, 'parse_args', catch):
        try:
            module.main([])
        except Caught:
            return caught[0]
    raise RuntimeError(f'mmnat {command} does not parse its command line')


def help_of(command: str) -> str:
    """What ``mmnat COMMAND --help`` prints, 100 columns wide."""
    with mock.patch.dict(os.environ, COLUMNS='100'):
        return f'```text\n{parser_of(command).format_help().rstrip()}\n```'


def models_of(folder: str) -> str:
    """The table of a family's README, with the names of the configs instead of links to them."""
    (table,) = TABLE_OF_MODELS.findall((ROOT / folder / 'README.md').read_text())
    return LINK_TO_CONFIG.sub(lambda match: f'{match[1]}<br>`{Path(match[2]).name}`', table)


def classifiers() -> str:
    """The table of the pretrained backbones with their published figures."""
    from mmnat.models.published import CLASSIFIERS

    lines = ['| backbone | image | parameters | MACs | top-1 | weights |', '|---|---|---|---|---|---|']
    for model in CLASSIFIERS.values():
        kernel = '' if model.kernel_size == 7 else f', kernel {model.kernel_size}'
        cells = [
            f'{model.backbone.__name__}-{model.arch.capitalize()}{kernel}',
            f'{model.resolution}x{model.resolution}',
            f'{model.params:.0f} M',
            f'{model.macs:.1f} G',
            f'{model.top1:.1f}',
            f'[weights]({model.checkpoint})',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)
