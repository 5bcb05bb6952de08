"""Random batches for detectors, trackers and their wrappers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample, TrackDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData

from mmnat.config_tree import walk

Batch = dict[str, Any]

#: Height and width; multiples of 64, which necks with coarse maps need.
SIZE = (128, 192)
#: Heads that need other sizes: squares, or maps of stride 128 that hold a 3 x 3 deformable convolution.
_SIZES = dict(CornerHead=(128, 128), CentripetalHead=(128, 128), DDODHead=(384, 384))
_BOXES = 4
_BRANCHES = ('sup', 'unsup_teacher', 'unsup_student')


def detection_batch(model: Mapping[str, Any], images: int) -> Batch:
    """Make images with objects, with all annotations that a detector may need.

    Args:
        model: The model's config.
        images: The number of images.
    """
    if 'semi_train_cfg' in model:
        batches = {name: detection_batch(model['detector'], images) for name in _BRANCHES}
        return {key: {name: b[key] for name, b in batches.items()} for key in ('inputs', 'data_samples')}
    rng = np.random.RandomState(0)
    size = image_size(model)
    samples = [_sample(model, size, rng) for _ in range(images)]
    return dict(inputs=[_image(size, rng) for _ in samples], data_samples=samples)


def video_batch(model: Mapping[str, Any], videos: int) -> Batch:
    """Make videos of two frames with the same objects.

    Args:
        model: The model's config.
        videos: The number of videos.
    """
    rng = np.random.RandomState(0)
    inputs, samples = [], []
    for _ in range(videos):
        frames = [_sample(model, SIZE, rng) for _ in range(2)]
        for index, frame in enumerate(frames):
            frame.set_metainfo(dict(frame_id=index, ori_video_length=2, video_length=2, video_id=0))
            frame.gt_instances.instances_ids = torch.arange(_BOXES)
        sample = TrackDataSample(video_data_samples=frames)
        sample.set_metainfo(dict(key_frames_inds=[0], ref_frames_inds=[1], ori_video_length=2))
        inputs.append(torch.stack([_image(SIZE, rng) for _ in frames]))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def image_size(model: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the images; some heads prescribe them."""
    for value in _values(model, 'input_size'):
        if isinstance(value, int):
            return value, value
    kinds = _values(model, 'type')
    return next((size for kind, size in _SIZES.items() if kind in kinds), SIZE)


def _values(model: Mapping[str, Any], key: str) -> list[Any]:
    return [part[key] for _, part in walk(model) if key in part]


def _classes(model: Mapping[str, Any]) -> int:
    counts = _values(model, 'num_classes') + _values(model, 'num_things_classes')
    return min([count for count in counts if isinstance(count, int)] or [1])


def _image(size: tuple[int, int], rng: np.random.RandomState) -> torch.Tensor:
    return torch.from_numpy(rng.randint(0, 256, (3, *size), dtype=np.uint8))


def _sample(model: Mapping[str, Any], size: tuple[int, int], rng: np.random.RandomState) -> DetDataSample:
    height, width = size
    classes = _classes(model)
    sample = DetDataSample()
    sample.set_metainfo(
        dict(
            img_id=0,
            img_path='random.png',
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1.0, 1.0),
            flip=False,
            flip_direction=None,
            border=[0, height, 0, width],
            homography_matrix=np.eye(3, dtype=np.float32),
        )
    )
    if 'language_model' in model:
        names = tuple(f'thing{chr(97 + i)}' for i in range(min(3, classes)))
        sample.set_metainfo(dict(text=names, custom_entities=True))
        classes = len(names)
    boxes = _boxes(height, width, rng)
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.from_numpy(rng.randint(0, classes, _BOXES)),
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    if 'mask' in str(model):  # some assigners use masks if there are any
        sample.gt_instances.masks = _masks(boxes, height, width)
        sample.ignored_instances.masks = _masks([], height, width)
    # A semantic branch beside the boxes expects labels at an eighth of the size.
    step = 8 if 'semantic_head' in (model.get('roi_head') or {}) else 1
    labels = rng.randint(0, classes, (1, height // step, width // step))
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(labels))
    if 'roi_head' in model and 'rpn_head' not in model:  # a detector that is given its proposals
        sample.proposals = InstanceData(
            bboxes=sample.gt_instances.bboxes.clone(), scores=torch.ones(_BOXES)
        )
    return sample


def _boxes(height: int, width: int, rng: np.random.RandomState) -> list[list[int]]:
    boxes = []
    for _ in range(_BOXES):
        h, w = rng.randint(height // 8, height // 2), rng.randint(width // 8, width // 2)
        y, x = rng.randint(0, height - h), rng.randint(0, width - w)
        boxes.append([x, y, x + w, y + h])
    return boxes


def _masks(boxes: list[list[int]], height: int, width: int) -> BitmapMasks:
    masks = np.zeros((len(boxes), height, width), dtype=np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return BitmapMasks(masks, height, width)
