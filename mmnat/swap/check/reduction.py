"""Models with fewer proposals and queries, and smaller images: what only saves time in a check."""

from collections.abc import Mapping
from typing import Any

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
    num_cp=0,  # recomputing saves memory, and needs another package
    use_autocast=False,  # lower precision inside a model is for CUDA
)
#: Weights, and padding to the size of real images.
_DROPPED = ('init_cfg', 'pretrained', 'batch_augments')
_SEGMENTATION_SIZE = (128, 128)


#: Parts of trackers without a backbone that is swapped: other packages build them.
_OF_TRACKERS = ('reid', 'tracker', 'postprocess_model', 'cmc')
#: Trackers whose detector is trained alone.
_TRACKERS = ('SORT', 'DeepSORT', 'StrongSORT', 'ByteTrack', 'OCSORT')


def is_tracker(model: Mapping[str, Any]) -> bool:
    """Whether a model only adds tracking to a detector that is trained alone."""
    return str(model.get('type')).split('.')[-1] in _TRACKERS


def reduced(model: dict[str, Any]) -> dict[str, Any]:
    """A copy of a model's config that builds the same layers and needs neither files nor a network."""
    model = without_files(model)
    _limit(model)
    return model


def without_files(value: Any) -> Any:
    """Drop weights, and stand in for language models, which come as weights only."""
    if isinstance(value, dict):
        copy = {k: without_files(v) for k, v in value.items() if k not in _DROPPED}
        if 'teacher_ckpt' in copy:
            copy['teacher_ckpt'] = None
        for key in _OF_TRACKERS if 'detector' in copy and 'tracker' in copy else ():
            if is_tracker(copy) or key == 'reid':
                copy.pop(key, None)
        if isinstance(copy.get('language_model'), dict):
            copy['language_model'] = dict(
                copy['language_model'], type='StandInTextEncoder', _scope_='mmdet'
            )
        return copy
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_files, value))
    return value


def _limit(value: Any) -> None:
    if isinstance(value, dict):
        for key, limit in _LIMITS.items():
            if isinstance(value.get(key), int) and value[key] > limit:
                value[key] = limit
        if str(value.get('type', '')).endswith('SegDataPreProcessor') and 'size' in value:
            value['size'] = _SEGMENTATION_SIZE
        if value.get('type') == 'MMSyncBN':  # for distributed training, as SyncBN is
            value['type'] = 'BN'
        if value.get('mode') == 'slide':
            value['crop_size'], value['stride'] = _SEGMENTATION_SIZE, _SEGMENTATION_SIZE
        for item in value.values():
            _limit(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _limit(item)
