"""The data sets of a config, checked before a run creates anything."""

import dataclasses
import filecmp
import os.path as osp
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS

from mmnat.config import framework
from mmnat.errors import UserError, abbreviate, warn

from .coco import check_regular, string_of_classes
from .objects import Split, read_split
from .registries import build_registered, check_type, reason
from .segmentation import check_segmentation_dataset

# Where to get the data sets of the published models, by their type in configs.
_COCO = ('COCO 2017', 'https://cocodataset.org/#download')
_ADE20K = ('ADE20K (ADEChallengeData2016)', 'https://ade20k.csail.mit.edu')
_CITYSCAPES = ('Cityscapes', 'https://www.cityscapes-dataset.com')
_PUBLIC = {
    'CocoDataset': _COCO,
    'CocoPanopticDataset': _COCO,
    'ADE20KDataset': _ADE20K,
    'ADE20KInstanceDataset': _ADE20K,
    'ADE20KPanopticDataset': _ADE20K,
    'BoxlessADE20KPanopticDataset': _ADE20K,
    'CityscapesDataset': _CITYSCAPES,
    'CityscapesPanopticDataset': _CITYSCAPES,
}


_COMPARED = 50  # images of one name, whose contents are compared


@dataclasses.dataclass
class ConfigDataset:
    """A data set of the config that is not a wrapper around other data sets.

    Attributes:
        field: Where it is in the config.
        dataset: The data set, with joined paths and without its annotations.
        local: Whether its files are on a local disk.
        split: What mmdet keeps of its annotations; None if it is not local or not in COCO format.
        labels: The labels that mmseg's label maps have, of those that were looked at.
        images: The paths of its images, if they are known.
    """

    field: str
    dataset: BaseDataset
    local: bool
    split: Split | None = None
    labels: set[int] = dataclasses.field(default_factory=set)
    images: Sequence[str] = ()

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of the classes; None if the annotations name them."""
        return self.dataset.metainfo.get('classes')


def check_datasets(cfg: Config, dataloaders: Sequence[str]) -> list[ConfigDataset]:
    """Check the data sets of some data loaders.

    Data sets on remote storage are only built, because looking at their files takes long.

    Args:
        cfg: The config.
        dataloaders: The fields of the data loaders in the config.

    Returns:
        The data sets.
    """
    datasets = []
    for name in dataloaders:
        if cfg.get(name) is None:
            continue
        for field, leaf in _leaves(cfg[name].dataset, f'{name}.dataset'):
            dataset = _build(field, leaf)
            if dataset is None:
                continue
            datasets.append(dataset)
            if dataset.local:
                _check_files(cfg, dataset)
    return datasets


def check_drop_last(cfg: Config, datasets: Sequence[ConfigDataset]) -> None:
    """Check that a training that drops incomplete batches has a complete one.

    Args:
        cfg: The config.
        datasets: Its data sets.

    Raises:
        UserError: If all images are fewer than a batch.
    """
    loader = cfg.train_dataloader
    sampler = str((loader.get('sampler') or {}).get('type'))
    counts = {part.field: len(part.images) for part in datasets}
    total = _length(loader.dataset, 'train_dataloader.dataset', counts)
    size = loader.get('batch_size', 1)
    if loader.get('drop_last') and total and total < size and not sampler.endswith('InfiniteSampler'):
        raise UserError(
            f'train_dataloader has drop_last, and its {total} images are no batch of batch_size = {size}',
            f'set batch_size to at most {total}, or drop_last=False',
        )


def _length(cfg: Any, field: str, counts: Mapping[str, int]) -> int:
    """How many images a data set gives an epoch; 0 if that is not known."""
    kind = str(cfg.get('type')).rpartition('.')[2]
    if kind == 'RepeatDataset':
        return cfg.times * _length(cfg.dataset, f'{field}.dataset', counts)
    if kind == 'ConcatDataset':
        parts = [_length(part, f'{field}.datasets[{i}]', counts) for i, part in enumerate(cfg.datasets)]
        return sum(parts) if all(parts) else 0
    return counts.get(field, 0)


def check_overlap(datasets: Sequence[ConfigDataset]) -> None:
    """Warn if images of the validation are also trained on.

    Args:
        datasets: The data sets of a training.
    """
    trained = _of_stage(datasets, 'train')
    validated = _of_stage(datasets, 'val')
    common = [path for path in validated if path in trained] or _copies(trained, validated)
    if common:
        names = abbreviate([validated[path] for path in common], 3)
        warn(
            f'{len(common)} of {len(validated)} images of val_dataloader are also in train_dataloader '
            f'({names}): the validation does not tell how the model does on new images'
        )


def _of_stage(datasets: Sequence[ConfigDataset], stage: str) -> dict[str, str]:
    """The paths of the images of a stage, by what they are called in any folder."""
    parts = [part for part in datasets if part.field.startswith(f'{stage}_dataloader.')]
    return {osp.abspath(path): path for part in parts for path in part.images}


def _copies(trained: Collection[str], validated: Collection[str]) -> list[str]:
    """The images of the validation that are copies of those of the same name, if the first of them are."""
    sources = {osp.basename(path): path for path in trained}
    pairs = [(path, sources[osp.basename(path)]) for path in validated if osp.basename(path) in sources]
    found = [path for path, source in pairs[:_COMPARED] if filecmp.cmp(path, source, shallow=False)]
    return [path for path, _ in pairs] if found and len(found) == len(pairs[:_COMPARED]) else found


def _leaves(cfg: Any, field: str) -> Iterator[tuple[str, Any]]:
    """Descend through RepeatDataset, ConcatDataset and the like."""
    if 'dataset' not in cfg and 'datasets' not in cfg:
        yield field, cfg
        return
    check_type(cfg.get('type'), f'{field}.type', DATASETS)
    for index, transform in enumerate(cfg.get('pipeline') or []):
        check_type(transform.get('type'), f'{field}.pipeline[{index}].type', TRANSFORMS)
    if 'dataset' in cfg:
        yield from _leaves(cfg.dataset, f'{field}.dataset')
    for index, part in enumerate(cfg.get('datasets') or []):
        yield from _leaves(part, f'{field}.datasets[{index}]')


def _build(field: str, leaf: Any) -> ConfigDataset | None:
    check_type(leaf.get('type'), f'{field}.type', DATASETS)
    local = _is_local(leaf)
    root = leaf.get('data_root')
    if local and root and not osp.isdir(root):
        raise UserError(f'{field}.data_root = {root!r} is not a folder', _where_to_get(field, leaf))
    classes = (leaf.get('metainfo') or {}).get('classes')
    if isinstance(classes, str) and not osp.isfile(classes):  # mmengine reads names from a file
        raise string_of_classes(field, classes)
    lazy = {**leaf, 'lazy_init': True}
    try:
        dataset = build_registered(DATASETS, lazy, field)
    except ImportError as error:  # a package that only some transforms need, such as panopticapi
        raise UserError(f'{field} ({leaf.type}): {str(error).rstrip(".")}', 'install it') from error
    except UserError:
        raise
    except Exception as error:  # by which the data sets and transforms of the frameworks reject arguments
        why = reason(error) if str(error) else 'it rejects its paths or classes'
        raise UserError(f'{field} ({leaf.type}): {why}', 'correct its paths and metainfo') from error
    return ConfigDataset(field, dataset, local) if isinstance(dataset, BaseDataset) else None


def _where_to_get(field: str, leaf: Any) -> str:
    remedy = f'correct the path, on the command line --cfg-options {field}.data_root=FOLDER'
    if leaf.type not in _PUBLIC or leaf.get('metainfo'):  # the user's own data have other classes
        return remedy
    name, url = _PUBLIC[leaf.type]
    return f'get {name} from {url} and put or link it there, or {remedy}; make demo trains without it'


def _is_local(leaf: Any) -> bool:
    backend = (leaf.get('backend_args') or {}).get('backend', 'local')
    paths = [leaf.get('data_root'), leaf.get('ann_file'), *(leaf.get('data_prefix') or {}).values()]
    return backend in ('local', 'disk') and not any('://' in (path or '') for path in paths)


def _check_files(cfg: Config, config_dataset: ConfigDataset) -> None:
    field, dataset = config_dataset.field, config_dataset.dataset
    if dataset.ann_file and not osp.exists(dataset.ann_file):
        raise UserError(
            f'{field}.ann_file: {dataset.ann_file} does not exist',
            'correct ann_file or data_root',
        )
    if dataset.ann_file and not osp.isdir(dataset.ann_file):
        check_regular(dataset.ann_file, f'{field}.ann_file:')
    for key, folder in dataset.data_prefix.items():
        if folder and not osp.isdir(folder):
            raise UserError(
                f'{field}.data_prefix.{key}: {folder} is not a folder',
                'correct data_prefix or data_root',
            )
    if framework(cfg) == 'mmdet':
        config_dataset.split = read_split(dataset, field)
        if config_dataset.split is not None:
            config_dataset.images = config_dataset.split.paths
    else:
        config_dataset.images, config_dataset.labels = check_segmentation_dataset(dataset, field)
