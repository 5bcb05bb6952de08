"""Data sets of mmseg: which files they list, and whether images and label maps belong together."""

import os.path as osp
from collections.abc import Sequence

from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset

from mmnat.errors import UserError, abbreviate, warn

from .file_lists import check_file_list
from .images import check_dataset_images
from .label_maps import check_label_maps
from .similar import similar_file


def check_segmentation_dataset(dataset: BaseDataset, field: str) -> tuple[list[str], set[int]]:
    """Check the images and label maps of a data set of mmseg.

    Args:
        dataset: The data set. Nothing is checked if it is not for segmentation.
        field: Where the data set is in the config.

    Returns:
        The paths of its images, and the labels in those of its label maps that were looked at.

    Raises:
        UserError: If files are missing, do not belong together, or hold what mmseg cannot learn from.
    """
    from mmseg.datasets import BaseSegDataset

    if not isinstance(dataset, BaseSegDataset):
        return [], set()
    lists_files = type(dataset).load_data_list is BaseSegDataset.load_data_list
    if lists_files and dataset.data_prefix.get('img_path') is None:
        keys = ', '.join(dataset.data_prefix) or 'nothing'
        raise UserError(
            f'{field}.data_prefix has {keys}, not img_path', 'name the folders img_path and seg_map_path'
        )
    if lists_files and dataset.data_prefix.get('seg_map_path') is None and _loads_label_maps(dataset):
        raise UserError(
            f'{field}.data_prefix has no seg_map_path, and the pipeline loads label maps',
            'name their folder seg_map_path, or leave out LoadAnnotations in a test without label maps',
        )
    try:
        samples = dataset.load_data_list()
    except UnicodeDecodeError as error:
        raise UserError(f'{field}.ann_file: {dataset.ann_file} is not UTF-8', 'save it as UTF-8') from error
    if lists_files:
        check_file_list(dataset, samples, field)
    samples = _selected(samples, dataset._indices, field)
    if not samples:
        raise UserError(f'{field} has no images', 'correct indices, ann_file or data_prefix')
    images = [sample['img_path'] for sample in samples if 'img_path' in sample]
    if images and any(type(t) is LoadImageFromFile for t in dataset.pipeline.transforms):
        check_dataset_images(images, field)
    labels: set[int] = set()
    if _loads_label_maps(dataset):
        labeled = [sample for sample in samples if sample.get('seg_map_path')]
        _check_existence(labeled, len(samples), field)
        labels = check_label_maps(dataset, labeled, field)
    return images, labels


def _selected(samples: list[dict], indices: int | Sequence[int] | None, field: str) -> list[dict]:
    """Take the samples that ``indices`` selects, as mmengine does."""
    if indices is None:
        return samples
    if isinstance(indices, int):
        if abs(indices) > len(samples):
            warn(f'{field}.indices = {indices}, but there are only {len(samples)} images: all are taken')
        return samples[:indices] if indices >= 0 else samples[indices:]
    beyond = [index for index in indices if not -len(samples) <= index < len(samples)]
    if beyond:
        raise UserError(
            f'{field}.indices has {abbreviate(beyond)}, but there are only {len(samples)} images',
            f'give indices below {len(samples)}',
        )
    return [samples[index] for index in indices]


def _loads_label_maps(dataset: BaseDataset) -> bool:
    """Whether the pipeline reads label maps: one for a test without them does not."""
    return any('Annotation' in type(t).__name__ for t in dataset.pipeline.transforms)


def _check_existence(labeled: list[dict], count: int, field: str) -> None:
    missing = [s['seg_map_path'] for s in labeled if not osp.isfile(s['seg_map_path'])]
    if missing:
        raise UserError(
            f'{field}: {len(missing)} of {count} images have no label map: {abbreviate(missing, 3)}'
            f'{similar_file(missing[0])}',
            'correct seg_map_suffix or data_prefix, or restore the files',
        )
