"""Random batches for segmentors."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

SIZE = (128, 128)


def segmentation_batch(model: Mapping[str, Any], images: int) -> dict[str, Any]:
    """Make images with a label for every pixel.

    Args:
        model: The model's config.
        images: The number of images.
    """
    generator = torch.Generator().manual_seed(0)
    head = model['decode_head']
    head = head[-1] if isinstance(head, (list, tuple)) else head
    channels = model['backbone'].get('in_channels', 3)
    inputs, samples = [], []
    for _ in range(images):
        inputs.append(torch.randint(0, 256, (channels, *SIZE), generator=generator, dtype=torch.uint8))
        labels = torch.randint(0, head.get('num_classes', 2), (1, *SIZE), generator=generator)
        shape = dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE, padding_size=(0, 0, 0, 0), flip=False)
        edges = torch.randint(0, 2, (1, *SIZE), generator=generator)
        samples.append(
            SegDataSample(
                gt_sem_seg=PixelData(data=labels), gt_edge_map=PixelData(data=edges), metainfo=shape
            )
        )
    return dict(inputs=inputs, data_samples=samples)
