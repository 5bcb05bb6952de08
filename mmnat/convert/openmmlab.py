"""Detectors and segmentors of mmdet 2.x and mmseg 0.x, which the NAT release was trained with.

No tensor is renamed. Held against the sources of both generations, the names in a Mask R-CNN, a Cascade
Mask R-CNN and a UPerNet are the same:

- FPN, RPNHead, ConvFCBBoxHead, FCNMaskHead (mmdet), UPerHead, FCNHead and their PPM (mmseg) have kept their
  submodules, as has mmcv's ConvModule, in which infer_abbr names SyncBatchNorm ``bn`` as it does BatchNorm.
- The hooks that rename while loading are for others: TwoStageDetector takes a single-stage ``bbox_head`` as
  ``rpn_head``, AnchorFreeHead's is for FCOS before mmdet 2.0, DeformConv2dPack's for its offsets. mmseg has
  none.
- DetDataPreprocessor and SegDataPreProcessor, which took the place of Normalize, do not save their mean and
  std.
- ``num_batches_tracked``, absent from old batch norms, is filled in by BatchNorm itself.
- What mmdet 3.0 did rename is its Mask2Former (DetrTransformerDecoderLayer); no NAT was published in that
  of mmdet 2.x.

What did change is ``meta``: see :mod:`mmnat.convert.source`.
"""

from collections.abc import Mapping

from torch import Tensor

from .architecture import has_blocks
from .renaming import Conversion

NAME = 'a detector or segmentor of mmdet 2.x, mmseg 0.x or newer'
_PARTS = ('neck.', 'rpn_head.', 'roi_head.', 'bbox_head.', 'panoptic_head.', 'decode_head.')


def recognises(weights: Mapping[str, Tensor]) -> bool:
    """Whether the weights are those of a backbone with a neck or heads."""
    return has_blocks(weights, 'backbone.') and any(name.startswith(_PARTS) for name in weights)


def convert(weights: Mapping[str, Tensor]) -> Conversion:
    """Keep all weights under their names."""
    return Conversion(dict(weights))
