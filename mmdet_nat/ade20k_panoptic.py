"""ADE20K for panoptic segmentation, as mmdet's ade20k2coco.py annotates it."""

from collections.abc import Sequence

from mmdet.datasets import ADE20KPanopticDataset
from mmdet.registry import DATASETS

from .panoptic import NamedPanopticDataset


@DATASETS.register_module()
class BoxlessADE20KPanopticDataset(NamedPanopticDataset):
    """ADE20K without the boxes of its annotation files, which ade20k2coco.py computes wrongly.

    mmdet drops a thing if its box is empty, or if its box lies outside of a crop. Here all boxes are as
    large as the image, so nothing is dropped: a pipeline that crops has to go by the masks, with
    ``recompute_bbox`` in RandomCrop and with FilterAnnotations after it.

    Args:
        ann_file: Annotation file, ``ade20k_panoptic_{train,val}.json``.
        data_prefix: Folders, ``img`` of the images and ``seg`` of the label maps.
        kwargs: The other arguments of :class:`mmdet.datasets.CocoPanopticDataset`.

    Raises:
        ValueError: If the annotation file has other classes.
    """

    METAINFO = ADE20KPanopticDataset.METAINFO

    def _box(self, image: dict, segment: dict) -> Sequence[float]:
        return 0, 0, image['width'], image['height']
