"""Cityscapes for panoptic segmentation, as cityscapesscripts' createPanopticImgs annotates it."""

from collections.abc import Sequence

from mmdet.evaluation import CocoPanopticMetric
from mmdet.registry import DATASETS, METRICS

from .panoptic import NamedPanopticDataset

THINGS = {
    'person': (220, 20, 60),
    'rider': (255, 0, 0),
    'car': (0, 0, 142),
    'truck': (0, 0, 70),
    'bus': (0, 60, 100),
    'train': (0, 80, 100),
    'motorcycle': (0, 0, 230),
    'bicycle': (119, 11, 32),
}
STUFF = {
    'road': (128, 64, 128),
    'sidewalk': (244, 35, 232),
    'building': (70, 70, 70),
    'wall': (102, 102, 156),
    'fence': (190, 153, 153),
    'pole': (153, 153, 153),
    'traffic light': (250, 170, 30),
    'traffic sign': (220, 220, 0),
    'vegetation': (107, 142, 35),
    'terrain': (152, 251, 152),
    'sky': (70, 130, 180),
}


@DATASETS.register_module()
class CityscapesPanopticDataset(NamedPanopticDataset):
    """Cityscapes with the panoptic annotations of cityscapesscripts, made with or without train ids.

    Images lie in a folder for each city, of which the annotation file says nothing.

    Args:
        ann_file: Annotation file, ``cityscapes_panoptic_{train,val}[_trainId].json``.
        data_prefix: Folders, ``img`` with the cities' folders and ``seg`` with the label maps.
        kwargs: The other arguments of :class:`mmdet.datasets.CocoPanopticDataset`.

    Raises:
        ValueError: If the annotation file has other classes.
    """

    METAINFO = {
        'classes': (*THINGS, *STUFF),
        'thing_classes': tuple(THINGS),
        'stuff_classes': tuple(STUFF),
        'palette': [*THINGS.values(), *STUFF.values()],
    }

    def _paths(self, image: dict, annotation: dict) -> tuple[str, str]:
        city = image['id'].split('_')[0]
        return f'{city}/{image["id"]}_leftImg8bit.png', annotation['file_name']


@METRICS.register_module()
class CityscapesPanopticMetric(CocoPanopticMetric):
    """Panoptic quality against the label maps of cityscapesscripts.

    The pipeline has to pack ``segments_info`` and ``seg_map_path``, from which the ground truth is taken.

    Args:
        seg_prefix: Folder of the label maps.
        kwargs: The other arguments of :class:`mmdet.evaluation.CocoPanopticMetric`, without ``ann_file``.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Compare the predictions of a batch with the ground truth."""
        # mmdet looks for a label map under the name of the image.
        named = [{**sample, 'img_path': sample['seg_map_path']} for sample in data_samples]
        super().process(data_batch, named)
