"""Detectors and segmentors of mmdet 2.x and mmseg 0.x, with which the NAT release was trained.

No tensor is renamed. According to the source code of both generations, the names in a Mask R-CNN, a Cascade
Mask R-CNN and a UPerNet are the same:

- FPN, RPNHead, ConvFCBBoxHead, FCNMaskHead (mmdet), UPerHead, FCNHead and their PPM (mmseg) have kept their
  submodules, as has mmcv's ConvModule, in which infer_abbr names SyncBatchNorm ``bn`` as it does BatchNorm.
- Modules that rename keys while they load do so for other models: TwoStageDetector takes a single-stage
  ``bbox_head`` as ``rpn_head``, AnchorFreeHead renames keys of FCOS before mmdet 2.0, and DeformConv2dPack
  renames its offsets. mmseg has no such modules.
- DetDataPreprocessor and SegDataPreProcessor, which replaced Normalize, do not save their mean and std.
- Old batch norms lack ``num_batches_tracked``; BatchNorm adds it itself.
- mmdet 3.0 did rename its Mask2Former (DetrTransformerDecoderLayer), but no NAT was published in that of
  mmdet 2.x.

Only ``meta`` changed: see :mod:`mmnat.convert.source`.
"""

from collections.abc import Mapping

from torch import Tensor

from .architecture import has_blocks
from .renaming import Conversion

NAME = 'a detector or segmentor of mmdet 2.x, mmseg 0.x or newer'
_PARTS = ('neck.', 'rpn_head.', 'roi_head.', 'bbox_head.', 'panoptic_head.', 'decode_head.')


def recognizes(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a backbone with a neck or heads."""
    return has_blocks(weights, 'backbone.') and any(name.startswith(_PARTS) for name in weights)


def convert(weights: Mapping[str, Tensor]) -> Conversion:
    """Keep all weights and their names."""
    return Conversion(dict(weights))
