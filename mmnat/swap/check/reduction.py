"""Models with fewer proposals and queries and smaller images, so that a check takes less time."""

from collections.abc import Mapping
from typing import Any

from mmnat.config_tree import copy_with, walk

#: Settings that count proposals, queries or samples, and the most that a check needs of them.
_LIMITS = dict(
    num_queries=100,
    num_query=100,
    num_proposals=100,
    max_per_img=100,
    max_per_image=100,
    nms_pre=200,
    max_num=100,
    num=64,
    num_cp=0,  # recomputation needs another package
    use_autocast=False,  # autocast inside a model is for CUDA
)
#: Weights, and padding to the size of real images.
_DROPPED = ('init_cfg', 'pretrained', 'batch_augments')
_SEGMENTATION_SIZE = (128, 128)
#: Parts of trackers that have no backbone to swap, and that other packages build.
_OF_TRACKERS = ('reid', 'tracker', 'postprocess_model', 'cmc')
#: Trackers whose detector is trained alone.
_TRACKERS = ('SORT', 'DeepSORT', 'StrongSORT', 'ByteTrack', 'OCSORT')


def is_tracker(model: Mapping[str, Any]) -> bool:
    """Whether a model adds tracking to a detector that is trained alone."""
    return str(model.get('type')).split('.')[-1] in _TRACKERS


def reduced(model: dict[str, Any]) -> dict[str, Any]:
    """Copy a model's config so that it builds the same layers and needs neither files nor a network."""
    model = without_files(model)
    for _, part in walk(model):
        _limit(part)
    return model


def without_files(model: dict[str, Any]) -> dict[str, Any]:
    """Copy a model's config without weights, and without language models, which exist as weights only."""
    return copy_with(model, _without_files)


def _without_files(part: dict[str, Any]) -> dict[str, Any]:
    part = {key: value for key, value in part.items() if key not in _DROPPED}
    if 'teacher_ckpt' in part:
        part['teacher_ckpt'] = None
    for key in _OF_TRACKERS if 'detector' in part and 'tracker' in part else ():
        if is_tracker(part) or key == 'reid':
            part.pop(key, None)
    if isinstance(part.get('language_model'), dict):
        part['language_model'] |= dict(type='StandInTextEncoder', _scope_='mmdet')
    return part


def _limit(part: dict[str, Any]) -> None:
    for key, limit in _LIMITS.items():
        if isinstance(part.get(key), int) and part[key] > limit:
            part[key] = limit
    if str(part.get('type', '')).endswith('SegDataPreProcessor') and 'size' in part:
        part['size'] = _SEGMENTATION_SIZE
    if part.get('type') == 'MMSyncBN':  # for distributed training, as SyncBN is
        part['type'] = 'BN'
    if part.get('mode') == 'slide':
        part['crop_size'], part['stride'] = _SEGMENTATION_SIZE, _SEGMENTATION_SIZE
