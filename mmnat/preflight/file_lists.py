"""Which files a data set of mmseg lists: those in a folder with a suffix, or those that a text names."""

import os
import os.path as osp
from collections import Counter
from collections.abc import Sequence

from mmengine.dataset import BaseDataset
from mmengine.fileio import list_dir_or_file, list_from_file

from mmnat.errors import UserError, abbreviate, warn

from .similar import belongs_to, similar_file

_IMAGES = ('.jpg', '.jpeg', '.jfif', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif', '.ppm', '.pgm')


def check_file_list(dataset: BaseDataset, samples: Sequence[dict], field: str) -> None:
    """Check what a data set lists, and what it leaves out silently.

    Args:
        dataset: The data set, a BaseSegDataset that lists its files as that does.
        samples: What it lists.
        field: Where it is in the config.

    Raises:
        UserError: If it lists nothing, names of no image, or fewer images than it leaves out.
    """
    if dataset.ann_file and not osp.isdir(dataset.ann_file):
        _check_names(dataset, samples, field)
    else:
        _check_folders(dataset, samples, field)


def _check_names(dataset: BaseDataset, samples: Sequence[dict], field: str) -> None:
    place = f'{field}.ann_file: {dataset.ann_file}'
    names = [line.strip() for line in list_from_file(dataset.ann_file)]
    if not names:
        raise UserError(f'{place} is empty', 'list the images in it, a name a line without suffix')
    if '' in names:
        raise UserError(f'{place}, line {names.index("") + 1}, is empty', 'remove the line')
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        warn(f'{place} has {len(repeated)} names more than once: {abbreviate(repeated, 3)}')
    missing = [index for index, sample in enumerate(samples) if not osp.isfile(sample['img_path'])]
    if not missing:
        return
    folder, suffix = dataset.data_prefix['img_path'], dataset.img_suffix
    name, path = names[missing[0]], samples[missing[0]]['img_path']
    problem = (
        f'{place}: {len(missing)} of {len(names)} names are not of an image; the first is {name!r} in '
        f'line {missing[0] + 1}'
    )
    if suffix and osp.isfile(osp.join(folder, name)):
        raise UserError(
            f'{problem}, and {path} does not exist',
            f'write names without suffix: img_suffix = {suffix!r} is added to them',
        )
    raise UserError(
        f'{problem}, and {path} does not exist{similar_file(path)}',
        f'name images below {folder}, without {suffix!r}, or correct img_suffix or data_prefix',
    )


def _check_folders(dataset: BaseDataset, samples: Sequence[dict], field: str) -> None:
    images, suffix = dataset.data_prefix['img_path'], dataset.img_suffix
    if not osp.isdir(images):
        raise UserError(f'{field}.data_prefix.img_path: {images!r} is not a folder', 'correct it')
    names = [osp.relpath(sample['img_path'], images) for sample in samples]
    stems = {name.removesuffix(suffix) for name in names}
    left_out = _others(dataset, images, stems)
    counts = Counter(osp.splitext(name)[1] for name in left_out)
    kinds = ', '.join(f'{count} {kind}' for kind, count in sorted(counts.items()))
    if not samples:
        raise UserError(
            f'{field}: no *{suffix} in {images}' + (f', but {kinds}' if kinds else ''),
            'correct img_suffix, data_prefix or ann_file',
        )
    if not left_out:
        _check_orphans(dataset, stems, field)
        return
    problem = (
        f'{field}: {len(left_out)} of {len(left_out) + len(names)} images in {images} do not end in '
        f'img_suffix = {suffix!r} and are left out ({kinds}; first: {min(left_out)})'
    )
    remedy = 'give all images one suffix, or list each suffix in a data set of its own (ConcatDataset)'
    if len(left_out) > len(names):
        raise UserError(problem, remedy)
    warn(f'{problem}; {remedy}')


def _others(dataset: BaseDataset, images: str, stems: set[str]) -> list[str]:
    """The images in the folder that are not listed, without what belongs to a listed one."""
    maps = dataset.data_prefix.get('seg_map_path')
    inside = osp.relpath(maps, images) if maps else os.pardir
    found = []
    for name in list_dir_or_file(images, list_dir=False, recursive=True):
        is_image = osp.splitext(name)[1].lower() in _IMAGES and not name.endswith(dataset.img_suffix)
        is_map = name.endswith(dataset.seg_map_suffix) if inside == '.' else name.startswith(f'{inside}/')
        if is_image and not is_map and not belongs_to(name, stems):
            found.append(name)
    return found


def _check_orphans(dataset: BaseDataset, stems: set[str], field: str) -> None:
    """Warn of label maps without an image."""
    images, maps = dataset.data_prefix['img_path'], dataset.data_prefix.get('seg_map_path')
    if not maps or not osp.isdir(maps) or osp.relpath(maps, images) == '.':
        return
    suffix = dataset.seg_map_suffix
    names = list_dir_or_file(maps, list_dir=False, suffix=suffix, recursive=True)
    orphans = sorted(
        name for name in names if name.removesuffix(suffix) not in stems and not belongs_to(name, stems)
    )
    if orphans:
        warn(
            f'{field}: {len(orphans)} label maps in {maps} are not used, for {images} has no images '
            f'of these names: {abbreviate(orphans, 3)}'
        )
