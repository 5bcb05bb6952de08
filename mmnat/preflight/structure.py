"""The types of the fields of a config that the other checks, and mmengine's runner, take for granted."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from mmnat.config_tree import join, walk
from mmnat.errors import UserError, brief

_STAGES = ('train', 'val', 'test')
_WORDS = {dict: 'a dict', list: 'a list', str: 'a string', int: 'a whole number', bool: 'True or False'}
_PLAIN = (str, int, float, list, tuple, dict)  # of other types are objects, which configs may hold, too
_HOOKS = ('default_hooks.*', 'custom_hooks.*')

# What fields are, if they are there and not None. A star stands for all parts of a dict or a list.
_FIELDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(('model', 'model.backbone', 'data_preprocessor', 'model.data_preprocessor'), (dict,)),
    **dict.fromkeys((f'{stage}_dataloader' for stage in _STAGES), (dict,)),
    **dict.fromkeys((f'{stage}_dataloader.sampler' for stage in _STAGES), (dict,)),
    **dict.fromkeys((f'{stage}_dataloader.batch_sampler' for stage in _STAGES), (dict,)),
    **dict.fromkeys((f'{stage}_cfg' for stage in _STAGES), (dict,)),
    **dict.fromkeys((f'{stage}_evaluator' for stage in _STAGES), (dict, list)),
    **dict.fromkeys((f'{stage}_evaluator.metrics' for stage in _STAGES), (dict, list)),
    **dict.fromkeys(('optim_wrapper', 'optim_wrapper.optimizer', 'optim_wrapper.paramwise_cfg'), (dict,)),
    'param_scheduler': (dict, list),
    'default_hooks': (dict,),
    'custom_hooks': (list,),
    **dict.fromkeys(_HOOKS, (dict,)),
    **dict.fromkeys(
        (f'{hook}.{name}' for hook in _HOOKS for name in ('save_best', 'monitor')), (str, list)
    ),
    **dict.fromkeys((f'{hook}.save_best.*' for hook in _HOOKS), (str,)),
    **dict.fromkeys((f'{hook}.out_dir' for hook in _HOOKS), (str,)),
    'visualizer': (dict,),
    'visualizer.vis_backends': (dict, list),
    'randomness': (dict,),
    'randomness.seed': (int,),
    'env_cfg': (dict,),
    'env_cfg.mp_cfg': (dict,),
    'env_cfg.dist_cfg': (dict,),
    'log_processor': (dict,),
    'auto_scale_lr': (dict,),
    'load_from': (str,),
    'resume': (bool, int),
    'tta_model': (dict,),
    'tta_pipeline': (list,),
    'work_dir': (str,),
}
# Whose items are dicts, if they are lists.
_LISTS = (
    *(f'{stage}_evaluator{part}' for stage in _STAGES for part in ('', '.metrics')),
    *('param_scheduler', 'visualizer.vis_backends', 'tta_pipeline'),
)
# The same for a data set.
_DATASET: dict[str, tuple[type, ...]] = {
    'type': (str,),
    **dict.fromkeys(('data_root', 'ann_file', 'data_prefix.*', 'img_suffix', 'seg_map_suffix'), (str,)),
    **dict.fromkeys(('data_prefix', 'metainfo', 'backend_args', 'filter_cfg'), (dict,)),
    'metainfo.classes': (list, str),
    'metainfo.classes.*': (str,),
    'pipeline': (list,),
    'pipeline.*': (dict,),
    'pipeline.*.type': (str,),
    'indices': (int, list),
    'indices.*': (int,),
    'datasets': (list,),
}

# What data sets of data sets need.
_NEEDED: dict[str, dict[str, tuple[type, ...]]] = {
    'RepeatDataset': {'dataset': (dict,), 'times': (int,)},
    'ConcatDataset': {'datasets': (list,)},
}


def check_structure(cfg: Config) -> None:
    """Check that the common fields of a config are dicts, lists or strings where they should be.

    Args:
        cfg: The config.

    Raises:
        UserError: If one is of another type.
    """
    tree = cfg._cfg_dict
    for pattern, kinds in _FIELDS.items():
        for path, value in _parts(tree, pattern.split('.')):
            _check(path, value, kinds)
    for stage in _STAGES:
        loader = tree.get(f'{stage}_dataloader')
        if isinstance(loader, dict):
            _check_dataset(f'{stage}_dataloader.dataset', loader.get('dataset'))
    for path, part in walk(tree):
        _check(join(path, 'type'), part.get('type'), (str,))
        inits, place = part.get('init_cfg'), join(path, 'init_cfg')
        _check(place, inits, (dict, list))
        for init in inits if isinstance(inits, (list, tuple)) else [inits] if inits else []:
            _check(place, init, (dict,), optional=False)
            if init.get('type') == 'Pretrained':
                _check(join(place, 'checkpoint'), init.get('checkpoint'), (str,), optional=False)
    for name in _LISTS:
        for path, value in _parts(tree, name.split('.')):
            for index, item in enumerate(value if isinstance(value, (list, tuple)) else ()):
                _check(f'{path}[{index}]', item, (dict,), optional=False)


def _check_dataset(path: str, dataset: Any) -> None:
    """Check a data set and those inside it."""
    _check(path, dataset, (dict,), optional=False)
    if not isinstance(dataset, dict):
        return
    for pattern, kinds in _DATASET.items():
        for inner, value in _parts(dataset, pattern.split('.')):
            _check(f'{path}.{inner}', value, kinds, optional='pipeline.*' not in pattern)
    if 'dataset' in dataset:
        _check_dataset(f'{path}.dataset', dataset['dataset'])
    for index, part in enumerate(dataset.get('datasets') or []):
        _check_dataset(f'{path}.datasets[{index}]', part)
    if dataset.get('type') is None:
        raise UserError(f'{path} has no type', "name one, for example type='CocoDataset'")
    kind = dataset['type'].rpartition('.')[2] if isinstance(dataset['type'], str) else ''
    for name, types in _NEEDED.get(kind, {}).items():
        _check(f'{path}.{name}', dataset.get(name), types, optional=False)
    if kind == 'RepeatDataset' and dataset['times'] < 1:
        times = dataset['times']
        raise UserError(f'{path}.times = {times} is not positive', 'use the images at least once')


def _check(path: str, value: Any, kinds: tuple[type, ...], optional: bool = True) -> None:
    if value is None and optional:
        return
    if value is not None and not isinstance(value, _PLAIN):
        return
    accepted = (*kinds, tuple) if list in kinds else kinds
    if isinstance(value, accepted) and not (isinstance(value, bool) and bool not in kinds):
        return
    words = ' or '.join(_WORDS[kind] for kind in kinds)
    raise UserError(f'{path} = {brief(value)} is not {words}', 'correct it')


def _parts(tree: Any, steps: list[str], path: str = '') -> Iterator[tuple[str, Any]]:
    """Give the parts of a config that a pattern names, with their paths."""
    if not steps:
        yield path, tree
        return
    step, *rest = steps
    if isinstance(tree, dict):
        for key in tree if step == '*' else [step] if step in tree else []:
            yield from _parts(tree.get(key), rest, f'{path}.{key}' if path else str(key))
    elif isinstance(tree, (list, tuple)) and step == '*':
        for index, item in enumerate(tree):
            yield from _parts(item, rest, f'{path}[{index}]')
