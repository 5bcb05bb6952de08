"""The command ``mmnat``, also ``python -m mmnat`` and ``torchrun -m mmnat``."""

import argparse
import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mmnat import commands  # first: it prepares the process, a data worker's too
from mmnat.errors import UserError, report_user_errors

NAMES = ('train', 'test', 'predict', 'swap', 'convert', 'count', 'label-maps', 'plot', 'demo', 'configs')


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the command line names."""
    argv = sys.argv[1:] if argv is None else list(argv)
    lines = [f'  {name:<11} {_summary(name)}' for name in NAMES]
    parser = argparse.ArgumentParser(
        'mmnat',
        description='NAT, DiNAT and DiNAT_s for mmdet and mmseg.',
        epilog='\n'.join(['commands:', *lines, '', 'Options of a command: mmnat COMMAND --help']),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='store_true', help='print versions and compiled kernels')
    parser.add_argument('command', nargs='?', choices=NAMES, metavar='COMMAND')
    args = parser.parse_args(argv[:1])
    if args.version:
        from mmnat.environment import describe_environment

        print('\n'.join(f'{name:<18} {value}' for name, value in describe_environment().items()))
    elif args.command is None:
        parser.print_help()
    else:
        _run(argv)


@report_user_errors
def _run(argv: Sequence[str]) -> None:
    """Run a command. Only now are the packages imported that it needs."""
    name, *arguments = argv
    try:
        module = import_module(f'{commands.__name__}.{_module(name)}')
    except ModuleNotFoundError as error:
        package = str(error.name).partition('.')[0]
        if package == 'mmnat':  # a mistake of ours
            raise
        raise UserError(
            f'mmnat {name} needs {package}, which is not installed',
            "run pip install 'mmnat[mmdet]' or 'mmnat[mmseg]'",
        ) from error
    module.main(arguments)


def _module(name: str) -> str:
    return name.replace('-', '_')


def _summary(name: str) -> str:
    """The first sentence of a command's docstring; the command is not imported, which can take seconds."""
    source = Path(commands.__path__[0], f'{_module(name)}.py').read_text(encoding='utf-8')
    return (ast.get_docstring(ast.parse(source)) or '').partition('\n')[0].rstrip('.')


if __name__ == '__main__':
    main()
