"""Where config files are: this project's, those of the installed frameworks, and the user's."""

import difflib
import importlib.util
import os.path as osp
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mmnat.errors import UserError

#: The packages whose configs can be trained, tested and swapped.
FRAMEWORKS = ('mmdet', 'mmseg')
_PACKAGE = Path(__file__).resolve().parent


@cache
def project_folder() -> Path:
    """The folder with ``configs``, ``tools`` and ``model-index.yml``: a clone, or what pip installed."""
    clone = _PACKAGE.parent
    return clone if (clone / 'model-index.yml').is_file() else _PACKAGE / '.mim'


def own_configs() -> list[Path]:
    """This project's configs, without those that others only inherit."""
    files = sorted((project_folder() / 'configs').glob('*/*.py'))
    return [file for file in files if file.parent.name != '_base_']


def framework_folder(framework: str) -> Path:
    """Where the installed mmdet or mmseg keeps its configs.

    Raises:
        UserError: If it is not installed, or has no configs.
    """
    spec = importlib.util.find_spec(framework)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f'{framework} is not installed', f"run pip install 'mmnat[{framework}]'")
    folder = Path(spec.submodule_search_locations[0]) / '.mim/configs'
    if not folder.is_dir():
        raise UserError(
            f'the installed {framework} has no configs in {folder}', 'install a release, or give a path'
        )
    return folder


def framework_configs(framework: str) -> Iterator[tuple[str, Path]]:
    """The names and paths of all complete configs of an installed framework."""
    folder = framework_folder(framework)
    for path in sorted(folder.rglob('*.py')):
        name = path.relative_to(folder)
        if '_base_' not in name.parts:
            yield name.as_posix(), path


def find_config(name: str) -> str:
    """The path of a config.

    Args:
        name: Its path; or ``mmdet::``, ``mmseg::`` or ``mmnat::`` with the path inside that package's
            configs; or, for one of this project's, the bare file name, with or without ``.py``.

    Raises:
        UserError: If there is none; the message has the nearest names.
    """
    package, separator, inside = name.partition('::')
    if separator:
        return _find_in_package(package, inside)
    path = osp.expanduser(name)
    if osp.isfile(path):
        return path
    stem = name.removesuffix('.py')
    own = {file.stem: file for file in own_configs()}
    if stem in own:
        return str(own[stem])
    nearest = difflib.get_close_matches(osp.basename(stem), own, n=3)
    hint = f' (nearest: {", ".join(nearest)})' if nearest else ''
    raise UserError(
        f'config {name} does not exist{hint}', 'check the path; `mmnat configs` lists those of mmnat'
    )


def check_dump(path: str, option: str) -> None:
    """Check that no config that a person wrote is where mmengine is going to write that of a run.

    Args:
        path: The file that mmengine writes.
        option: What says where, for the message.

    Raises:
        UserError: If it would be replaced, or if a symbolic link leads to another file there.
    """
    if osp.islink(path):
        raise UserError(
            f'{option}: the run would write its config through the symbolic link {path} to'
            f' {osp.realpath(path)}',
            'remove the link, or name another folder',
        )
    if osp.isfile(path) and _is_written_by_hand(path):
        raise UserError(f'{option}: the run would overwrite the config {path}', 'name another folder')


def _is_written_by_hand(path: str) -> bool:
    """Whether a config has what mmengine never writes: comments, bases or imports."""
    try:
        with tokenize.open(path) as file:
            tokens = list(tokenize.generate_tokens(file.readline))
    except (OSError, SyntaxError, tokenize.TokenError):
        return True
    return any(token.type == tokenize.COMMENT or token.string in ('_base_', 'import') for token in tokens)


def _find_in_package(package: str, name: str) -> str:
    if package == 'mmnat':
        folder = project_folder() / 'configs'
    elif package in FRAMEWORKS:
        folder = framework_folder(package)
    else:
        known = ', '.join((*FRAMEWORKS, 'mmnat'))
        raise UserError(f'config {package}::{name} is of {package!r}', f'name one of {known}')
    path = folder / name
    if not path.is_file():
        raise UserError(f'config {package}::{name} does not exist', f'name one of those in {folder}')
    return str(path)
