"""The configs that the installed mmdet and mmseg packages ship."""

import importlib
import os.path as osp
from collections.abc import Iterator
from pathlib import Path

from user_errors import UserError

from nat_backbones.swap import Framework

FRAMEWORKS = ('mmdet', 'mmseg')


def load_framework(name: str) -> Framework:
    """What a swap knows of a framework; imports its modules, which register its models."""
    if name == 'mmdet':
        from mmdet.utils import register_all_modules

        from mmdet_nat.swap import MMDET as framework
    else:
        from mmseg.utils import register_all_modules

        from mmseg_nat.swap import MMSEG as framework
    register_all_modules(init_default_scope=True)
    return framework


def config_folder(framework: str) -> Path:
    """Where the installed package keeps its configs."""
    folder = Path(importlib.import_module(framework).__path__[0]) / '.mim' / 'configs'
    if not folder.is_dir():
        raise UserError(
            f'the installed {framework} has no configs in {folder}', 'install a release, or give a path'
        )
    return folder


def installed_configs(framework: str) -> Iterator[tuple[str, Path]]:
    """The names and paths of all complete configs."""
    folder = config_folder(framework)
    for path in sorted(folder.rglob('*.py')):
        name = path.relative_to(folder)
        if '_base_' not in name.parts:
            yield name.as_posix(), path


def resolve(config: str) -> str:
    """The path of a config that is named by its path, or as ``mmdet::retinanet/...``."""
    framework, separator, name = config.partition('::')
    if not separator:
        return osp.expanduser(config)
    if framework not in FRAMEWORKS:
        raise UserError(f'config {config} is of {framework!r}', f'name one of {", ".join(FRAMEWORKS)}')
    path = config_folder(framework) / name
    if not path.is_file():
        raise UserError(
            f'config {config} does not exist', f'name one of those in {config_folder(framework)}'
        )
    return str(path)
