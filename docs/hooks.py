"""What `mkdocs build` puts into the pages: the help of commands, tables and files of the repository.

A page asks for it with a comment on a line of its own:

- ``<!-- help: train -->``: what ``mmnat train --help`` prints;
- ``<!-- table: configs/nat/README.md -->``: the table that tools/dev/check_zoo.py writes into this README;
- ``<!-- include: CONTRIBUTING.md -->``: the whole file.
"""

import argparse
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
REQUEST = re.compile(r'^<!-- (help|table|include): (\S+) -->$', re.MULTILINE)
TABLE = re.compile(r'<!-- (models|backbones) -->\n(?P<rows>.*?)\n<!-- end of \1 -->', re.DOTALL)
LINK_TO_CONFIG = re.compile(r'\[([^]]+)\]\(([^)]+)\.py\)')
# What Sphinx would make a link of: :func:`na2d`.
ROLE = re.compile(r':(?:attr|class|data|func|meth|mod):(?=<code>)')
LINK_TO_FILE = re.compile(r'(?<!!)\[([^]]+)\]\((?!https?://|#)[^)]*\)')


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the comments by what they ask for; mkdocs calls it for every page."""
    actions = dict(help=help_of, table=table_of, include=content_of)
    return REQUEST.sub(lambda match: actions[match[1]](match[2]), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Drop Sphinx's roles, which docstrings have; mkdocs calls it for every page."""
    return ROLE.sub('', html)


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command, caught when the command parses its command line."""

    class Caught(Exception):
        """Ends the command."""

    def catch(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise Caught(parser)

    module = import_module(f'mmnat.commands.{command.replace("-", "_")}')
    with mock.patch.object(argparse.ArgumentParser, 'parse_args', catch):
        try:
            module.main([])
        except Caught as caught:
            return caught.args[0]
    raise RuntimeError(f'mmnat {command} does not parse its command line')


def help_of(command: str) -> str:
    """What ``mmnat COMMAND --help`` prints, 100 columns wide."""
    with mock.patch.dict(os.environ, COLUMNS='100'):
        return f'```text\n{parser_of(command).format_help().rstrip()}\n```'


def table_of(path: str) -> str:
    """The table of a README, with the names of the configs instead of links to them."""
    (table,) = TABLE.finditer((ROOT / path).read_text(encoding='utf-8'))
    return LINK_TO_CONFIG.sub(lambda match: f'{match[1]}<br>`{Path(match[2]).name}`', table['rows'])


def content_of(path: str) -> str:
    """A file; its links to other files of the repository, which the site does not have, become text."""
    return LINK_TO_FILE.sub(r'\1', (ROOT / path).read_text(encoding='utf-8'))
