"""The model of a config."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmnat.errors import UserError, abbreviate, warn

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


def check_agreement(model: nn.Module, datasets: Sequence[ConfigDataset]) -> None:
    """Check that the data sets of a training and its validation number the classes in one way.

    Args:
        model: The model. Nothing is checked if it has no heads that predict the classes.
        datasets: The data sets.

    Raises:
        UserError: If not: a label of one would be another class in the other.
    """
    if not dict(_class_heads(model)):
        return
    for other in datasets[1:]:
        first = datasets[0]
        for name in ('classes', 'reduce_zero_label'):
            one, two = (_plain(part.dataset.metainfo.get(name)) for part in (first, other))
            if None not in (one, two) and one != two:
                raise UserError(
                    f'data sets differ in {name}: {first.field} has {one}, but {other.field} has {two}',
                    'set it to the same value in both',
                )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def check_ignored(model: nn.Module, datasets: Iterable[ConfigDataset]) -> None:
    """Compare what the heads of a segmentor ignore with the label maps.

    Args:
        model: The model.
        datasets: The data sets that it is trained on.

    Raises:
        UserError: If label maps have a label that is no class and that a head does not ignore.
    """
    heads = {
        f'model.{_as_field(name)}.ignore_index': module.ignore_index
        for name, module in model.named_modules()
        if _last(name) in _HEADS and isinstance(getattr(module, 'ignore_index', None), int)
    }
    for dataset in datasets:
        labels = dataset.labels - {*range(len(dataset.classes or ()))}
        field, ignored = next(iter(heads.items()), ('', None))
        own = getattr(dataset.dataset, 'ignore_index', ignored)
        if ignored is not None and own != ignored and own in dataset.labels:
            warn(
                f'{dataset.field}.ignore_index = {own} does not make the model ignore these pixels; '
                f'{field} = {ignored} does'
            )
        for field, ignored in heads.items():
            if labels - {ignored}:
                raise UserError(
                    f'{field} = {ignored}, but label maps of {dataset.field} have {abbreviate([*labels])}, '
                    'which is no class',
                    'set ignore_index to the same value in heads, data sets and evaluators',
                )
            if dataset.classes and ignored in range(len(dataset.classes)):
                warn(f'{field} = {ignored}: {dataset.classes[ignored]!r} will not be learned')


def _class_heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    # Models that match text have no classes, and neither has the RPN.
    if hasattr(model, 'language_model') or type(model).__name__ == 'RPN':
        return
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        if _last(name) not in _HEADS or not isinstance(count, int):
            continue
        if not getattr(module, 'class_agnostic', False):
            yield f'model.{_as_field(name)}.num_classes', count


def _last(name: str) -> str:
    """The last part of a module's name that is no number."""
    return ([part for part in name.split('.') if not part.isdigit()] or [''])[-1]


def _as_field(name: str) -> str:
    """Turn a module's name, ``roi_head.bbox_head.0``, into a field, ``roi_head.bbox_head[0]``."""
    parts = [f'[{part}]' if part.isdigit() else f'.{part}' for part in name.split('.')]
    return ''.join(parts).lstrip('.')
