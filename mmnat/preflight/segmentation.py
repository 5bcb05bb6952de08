"""Images and label maps of semantic segmentation."""

import os.path as osp

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset

from mmnat.errors import UserError, abbreviate

from .images import check_dataset_images

# The number of label maps of a data set whose values are checked.
MAX_LABEL_MAPS = 50


def check_segmentation_dataset(dataset: BaseDataset, field: str) -> None:
    """Check the images and label maps of a data set that mmseg lists from folders.

    Args:
        dataset: The data set. Nothing is checked if it has another layout.
        field: Where the data set is in the config.
    """
    from mmseg.datasets import BaseSegDataset

    if not isinstance(dataset, BaseSegDataset):
        return
    samples = dataset.load_data_list()
    if not samples:
        raise UserError(
            f'{field}: no *{dataset.img_suffix} in {dataset.data_prefix.get("img_path")}',
            'correct img_suffix, data_prefix or ann_file',
        )
    if 'img_path' in samples[0]:
        check_dataset_images([sample['img_path'] for sample in samples], field)
    labeled = [sample for sample in samples if sample.get('seg_map_path')]
    missing = [s['seg_map_path'] for s in labeled if not osp.isfile(s['seg_map_path'])]
    if missing:
        raise UserError(
            f'{field}: {len(missing)} of {len(samples)} images have no label map: {abbreviate(missing, 3)}',
            'correct seg_map_suffix or data_prefix, or restore the files',
        )
    _check_labels(dataset, labeled, field)


def _check_labels(dataset: BaseDataset, samples: list[dict], field: str) -> None:
    load = _annotation_loader(dataset)
    classes = dataset.metainfo.get('classes')
    if load is None or classes is None or not samples:
        return
    step = max(1, len(samples) // MAX_LABEL_MAPS)
    for sample in samples[::step][:MAX_LABEL_MAPS]:
        labels = _load_labels(load, sample, field)
        allowed = [*range(len(classes)), dataset.ignore_index]
        beyond = sorted(set(np.unique(labels).tolist()) - set(allowed))
        if beyond:
            raise UserError(
                f'{field}: label map {sample["seg_map_path"]} has the values {abbreviate(beyond)}'
                f' beyond the {len(classes)} classes of metainfo (ignored: '
                f'{dataset.ignore_index})',
                'correct metainfo.classes, reduce_zero_label or the label maps',
            )


def _annotation_loader(dataset: BaseDataset) -> BaseTransform | None:
    """Return the transform of the pipeline that reads label maps."""
    from mmseg.datasets.transforms import LoadAnnotations

    transforms = dataset.pipeline.transforms
    return next((t for t in transforms if type(t) is LoadAnnotations), None)


def _load_labels(load: BaseTransform, sample: dict, field: str) -> np.ndarray:
    path = sample['seg_map_path']
    try:
        labels = load({**sample, 'seg_fields': []})['gt_seg_map']
    except (OSError, AttributeError) as error:  # depending on the decoder
        raise UserError(f'{field}: label map {path} cannot be decoded', 'replace the file') from error
    if labels.ndim != 2:
        raise UserError(
            f'{field}: label map {path} has shape {labels.shape}',
            'store one class index a pixel, in a single channel',
        )
    return labels
