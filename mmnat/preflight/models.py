"""The model of a config."""

from collections.abc import Iterable, Iterator

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmnat.errors import UserError, abbreviate

from .datasets import ConfigDataset
from .registries import build_registered, reason

# Heads that predict one of the classes of the data set. Other heads, such as the region proposal network,
# have their own number of classes.
_HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config as mmengine's runner does, without initializing its weights."""
    model = cfg.model
    if cfg.get('data_preprocessor') is not None:
        model = {'data_preprocessor': cfg.data_preprocessor, **model}
    try:
        return build_registered(MODELS, model, 'model')
    except (ImportError, UserError):
        raise
    except Exception as error:  # by which constructors reject arguments and values
        raise UserError(
            f'the model of the config cannot be built: {reason(error)}', 'correct it'
        ) from error


def check_num_classes(model: nn.Module, datasets: Iterable[ConfigDataset]) -> None:
    """Compare the numbers of classes of the model's heads with those of the data sets.

    Args:
        model: The model.
        datasets: The data sets that it is trained or tested on.
    """
    heads = dict(_class_heads(model))
    for dataset in datasets:
        if dataset.classes is None:
            continue
        expected = len(dataset.classes)
        wrong = [f'{name} = {count}' for name, count in heads.items() if count != expected]
        if wrong:
            raise UserError(
                f'{abbreviate(wrong)}, but {dataset.field}.metainfo has {expected} classes '
                f'({abbreviate(dataset.classes)})',
                f'set num_classes = {expected} in these heads, or correct metainfo.classes',
            )


def _class_heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    # Models that match text have no classes, and neither has the RPN.
    if hasattr(model, 'language_model') or type(model).__name__ == 'RPN':
        return
    for name, module in model.named_modules():
        last = ([part for part in name.split('.') if not part.isdigit()] or [''])[-1]
        count = getattr(module, 'num_classes', None)
        if last not in _HEADS or not isinstance(count, int):
            continue
        if not getattr(module, 'class_agnostic', False):
            yield f'model.{_as_field(name)}.num_classes', count


def _as_field(name: str) -> str:
    """Turn a module's name, ``roi_head.bbox_head.0``, into a field, ``roi_head.bbox_head[0]``."""
    parts = [f'[{part}]' if part.isdigit() else f'.{part}' for part in name.split('.')]
    return ''.join(parts).lstrip('.')
