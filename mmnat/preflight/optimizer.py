"""The optimizer of a config, and whether the training state in a checkpoint is of that optimizer."""

import copy
from typing import Any, TypeAlias

from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from mmnat.errors import UserError, abbreviate, warn
from mmnat.models.backbone import NeighborhoodBackbone
from mmnat.quiet import quiet

from .registries import reason

#: Constructors of mmdet and mmseg that give every layer its own learning rate. They know other backbones.
BY_LAYER = ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor')

Wrapper: TypeAlias = OptimWrapper | OptimWrapperDict
# What a resumed optimizer takes from the checkpoint, although the config may have changed.
_SETTINGS = ('lr', 'weight_decay', 'momentum', 'betas')


def build_optimizer(cfg: Config, model: nn.Module) -> Wrapper | None:
    """Build the optimizer of a config as mmengine's runner does.

    Args:
        cfg: The config.
        model: The model.

    Returns:
        The wrapped optimizer. None if another runner builds it in its own way.

    Raises:
        UserError: If it cannot be built.
    """
    wrapper = cfg.optim_wrapper
    if cfg.get('runner_type', 'Runner') not in ('Runner', Runner) or not isinstance(wrapper, dict):
        return None
    constructor = wrapper.get('constructor')
    ours = {type(part).__name__ for part in model.modules() if isinstance(part, NeighborhoodBackbone)}
    if ours and _name(constructor) in BY_LAYER:
        raise UserError(
            f'optim_wrapper.constructor = {_name(constructor)!r} does not know the layers of'
            f' {" and ".join(sorted(ours))}',
            "use 'NATLayerDecayOptimizerConstructor' with the same decay_rate, and leave out num_layers",
        )
    try:
        with quiet():
            return build_optim_wrapper(model, wrapper)
    except Exception as error:  # by which constructors reject arguments and values
        raise UserError(f'optim_wrapper cannot be built: {reason(error)}', 'correct it') from error


def check_optimizer_state(path: str, saved: dict[str, Any], wrapper: Wrapper, cfg: Config) -> None:
    """Check that the training state in a checkpoint is of the optimizer of a config.

    Args:
        path: The checkpoint.
        saved: The state of the optimizer in it.
        wrapper: The optimizer, whose settings are replaced.
        cfg: The config.

    Raises:
        UserError: If the state is of another optimizer, or of other groups of parameters.
    """
    if not isinstance(saved, dict):
        raise _damaged(path)
    if isinstance(wrapper, OptimWrapperDict):
        for name, part in wrapper.items():
            check_optimizer_state(path, saved.get(name, {}), part, cfg)
        return
    optimizer, groups = wrapper.optimizer, saved.get('param_groups', [])
    if not isinstance(groups, list) or not all(_is_group(group) for group in groups):
        raise _damaged(path)
    remedy = f'start from the weights with --cfg-options load_from={path} instead of --resume'
    if [len(group['params']) for group in groups] != [len(g['params']) for g in optimizer.param_groups]:
        raise UserError(
            f'the training state in checkpoint {path} is of {_count(groups)}, and the optimizer of the'
            f' config has {_count(optimizer.param_groups)}',
            f'resume with the optim_wrapper and the frozen_stages of that training, or {remedy}',
        )
    changed = _changed_settings(groups, optimizer, cfg)
    # This fills in what older versions of torch did not save.
    optimizer.load_state_dict(dict(state={}, param_groups=copy.deepcopy(groups)))
    lacks = [name for name in optimizer.defaults if any(name not in g for g in optimizer.param_groups)]
    if lacks:
        raise UserError(
            f'the training state in checkpoint {path} is not of the optimizer of the config,'
            f' {type(optimizer).__name__}: it lacks {", ".join(lacks)}',
            f'resume with the optimizer of that training, or {remedy}',
        )
    if changed:
        warn(
            f'--resume keeps the settings of the optimizer in the checkpoint: {abbreviate(changed, 3)}; to'
            f' change them, {remedy}'
        )


def _is_group(group: Any) -> bool:
    """Whether a group of parameters has what torch reads of it."""
    params = group.get('params') if isinstance(group, dict) else None
    if not isinstance(params, list) or not all(isinstance(number, int) for number in params):
        return False
    settings = (group[name] for name in _SETTINGS if name in group)
    return all(isinstance(value, (int, float, Tensor, list, tuple)) for value in settings)


def _damaged(path: str) -> UserError:
    return UserError(
        f'the training state in checkpoint {path} is damaged: its optimizer has no groups of parameters',
        f'copy the file again, or start from the weights with --cfg-options load_from={path}',
    )


def _changed_settings(saved: list[dict], optimizer: Optimizer, cfg: Config) -> list[str]:
    """Say which settings differ, before the schedule changed them."""
    changed: dict[str, None] = {}  # in their order
    for before, now in zip(saved, optimizer.param_groups, strict=True):
        for name in _SETTINGS:
            if name == 'lr' and (cfg.get('auto_scale_lr') or {}).get('enable'):
                continue  # it is scaled later
            old = before.get(f'initial_{name}', before.get(name))
            new = now.get(name)
            if None not in (old, new) and _plain(old) != _plain(new):
                changed[f'{name} = {old}, not {new}'] = None
    return list(changed)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _count(groups: list[dict]) -> str:
    total = sum(len(group['params']) for group in groups)
    return f'{total} parameters in {len(groups)} group{"s" * (len(groups) != 1)}'


def _name(constructor: Any) -> str:
    return str(getattr(constructor, '__name__', constructor)).split('.')[-1]
