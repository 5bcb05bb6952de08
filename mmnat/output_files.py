"""Files whose names come from the user's data: each gets a place of its own below the output folder."""

import os
import os.path as osp
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmnat.errors import UserError


def output_paths(folder: Path, names: Sequence[tuple[str, str]], suffix: str | None = None) -> list[Path]:
    """Choose the file below a folder for each of some names, before any of them is written.

    Args:
        folder: The output folder. It need not exist.
        names: For each file, where its name comes from, for messages, and the name: a path relative to the
            folder.
        suffix: What every file gets instead of the suffix in its name; None leaves the names as they are.

    Returns:
        The paths, in the order of the names.

    Raises:
        UserError: If a name leads out of the folder, also through a symbolic link, or is that of a folder,
            or if two files would be one, be it on file systems that ignore upper and lower case.
    """
    paths: list[Path] = []
    places: dict[str, str] = {}  # origin by file
    folders: dict[str, str] = {}  # origin of a file in it, by folder
    for origin, name in names:
        _check_name(origin, name)
        path = folder / osp.normpath(name if suffix is None else osp.splitext(name)[0] + suffix)
        _check_place(origin, folder, path)
        place, *parents = _places(path.relative_to(folder))
        earlier = places.get(place) or folders.get(place)
        earlier = earlier or next((places[parent] for parent in parents if parent in places), None)
        if earlier is not None:
            raise UserError(
                f'{earlier} and {origin} would be written to one place, {path}', 'rename one of them'
            )
        places[place] = origin
        folders.update(dict.fromkeys(parents, origin))
        paths.append(path)
    return paths


def check_kept(outputs: Iterable[Path | str], inputs: Iterable[Path | str], option: str) -> None:
    """Check that no output replaces an input.

    Args:
        outputs: The files to write.
        inputs: The files that were read.
        option: The option and its value that say where to write, for the message.

    Raises:
        UserError: If one would be replaced.
    """
    replaced = set(map(osp.realpath, outputs)) & set(map(osp.realpath, inputs))
    if replaced:
        raise UserError(f'{option} would overwrite the input {min(replaced)}', 'name another place')


def _check_name(origin: str, name: str) -> None:
    remedy = 'give it a name relative to the folder of the images'
    if '\0' in name or any('\ud800' <= character < '\ue000' for character in name):
        raise UserError(f'{origin} has characters that no file name can have', remedy)
    if osp.isabs(name):
        raise UserError(f'{origin} is an absolute path, which leads out of the output folder', remedy)
    if osp.normpath(name).split(os.sep)[0] == os.pardir:
        raise UserError(f'{origin} leads out of the output folder', remedy)
    if osp.basename(name) in ('', os.curdir, os.pardir):
        raise UserError(f'{origin} names no file', remedy)


def _check_place(origin: str, folder: Path, path: Path) -> None:
    remedy = 'remove it, or name another output folder'
    real, root = osp.realpath(path), osp.realpath(folder)
    if osp.commonpath([real, root]) != root:
        raise UserError(f'{origin}: {path} leads through a symbolic link to {real}', remedy)
    if path.is_dir():
        raise UserError(f'{origin}: {path} is a folder', remedy)
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise UserError(f'{origin}: {parent} is a file, not a folder', remedy)
            break


def _places(path: Path) -> list[str]:
    """What a file and the folders that it lies in are known by on any file system, the file first."""
    return [unicodedata.normalize('NFC', str(part)).casefold() for part in (path, *path.parents[:-1])]
