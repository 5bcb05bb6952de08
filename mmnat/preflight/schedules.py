"""The schedules of a config, and whether those in a checkpoint are the same."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

from mmnat.errors import UserError, abbreviate, warn

from .registries import reason

# What a schedule knows of its progress and of the optimizer, whose settings have a check of their own.
_ANY_LENGTH = 10_000  # of an epoch, which is not known before the data loader is built
_PROGRESS = ('last_step', 'base_values', 'verbose')


def check_param_scheduler(cfg: Config, wrapper: Any) -> None:
    """Check that the schedules of a config can be built.

    Args:
        cfg: The config.
        wrapper: The optimizer. Schedules are built for a single one only.

    Raises:
        UserError: If not.
    """
    if not isinstance(wrapper, OptimWrapper):
        return
    rates = [dict(group) for group in wrapper.optimizer.param_groups]
    for index, part in enumerate(_parts(cfg)):
        try:
            _build(part, wrapper, cfg, _ANY_LENGTH)
        except Exception as error:  # by which constructors reject arguments and values
            raise UserError(
                f'param_scheduler[{index}] cannot be built: {reason(error)}', 'correct its arguments'
            ) from error
        finally:
            for group, before in zip(wrapper.optimizer.param_groups, rates, strict=True):
                group.clear()
                group.update(before)


def check_schedules(path: str, checkpoint: Mapping[str, Any], wrapper: Any, cfg: Config) -> None:
    """Check that the schedules in a checkpoint are those of a config.

    mmengine gives each schedule of the config the state of the one in its place, settings included.

    Args:
        path: The checkpoint.
        checkpoint: Its content.
        wrapper: The optimizer, whose rates are changed. Only a single one is checked.
        cfg: The config.

    Raises:
        UserError: If they are of other kinds, or of another number.
    """
    if not isinstance(wrapper, OptimWrapper):
        return
    parts = _parts(cfg)
    saved = checkpoint.get('param_schedulers') or []
    remedy = f'start from the weights with --cfg-options load_from={path} instead of --resume'
    if not isinstance(saved, list) or len(saved) != len(parts):
        raise UserError(
            f'the training state in checkpoint {path} has {len(saved)} schedules, and the param_scheduler'
            f' of the config has {len(parts)}',
            f'resume with the param_scheduler of that training, or {remedy}',
        )
    # mmnat.launch.exact_resume keeps it there.
    length = checkpoint.get('exact_resume', {}).get('batches_per_epoch')
    changed: list[str] = []
    for index, (part, state) in enumerate(zip(parts, saved, strict=True)):
        if length is None and (part.get('convert_to_iter_based') or 'end' not in part):
            continue
        new = _settings(_build(part, wrapper, cfg, length))
        lacks = [name for name in new if name not in state]
        if lacks:
            raise UserError(
                f'the training state in checkpoint {path} is not of param_scheduler[{index}] of the config,'
                f' {part["type"]}: it lacks {", ".join(lacks)}',
                f'resume with the param_scheduler of that training, or {remedy}',
            )
        changed += [
            f'param_scheduler[{index}].{name} = {_plain(state[name])}, not {_plain(value)}'
            for name, value in new.items()
            if _plain(state[name]) != _plain(value)
        ]
    if changed:
        warn(
            f'--resume keeps the schedules in the checkpoint: {abbreviate(changed, 3)}; to change them,'
            f' {remedy}'
        )


def _parts(cfg: Config) -> list[Mapping[str, Any]]:
    listed = cfg.get('param_scheduler') or []
    return [listed] if isinstance(listed, dict) else list(listed)


def _build(part: Mapping[str, Any], wrapper: OptimWrapper, cfg: Config, length: int | None) -> Any:
    """Build a schedule as mmengine's runner does.

    Args:
        part: Its config.
        wrapper: The optimizer.
        cfg: The config.
        length: How many batches an epoch had in the training of the checkpoint.
    """
    epochs = cfg.train_cfg.get('max_epochs', 1)  # a loop of iterations counts as one
    iterations = cfg.train_cfg.get('max_iters', epochs * (length or 0))
    end = epochs if part.get('by_epoch', True) else iterations
    schedule = {'end': end, **copy.deepcopy(dict(part))}
    return PARAM_SCHEDULERS.build(schedule, default_args=dict(optimizer=wrapper, epoch_length=length))


def _settings(schedule: Any) -> dict[str, Any]:
    state = schedule.state_dict()
    return {name: state[name] for name in state if not name.startswith('_') and name not in _PROGRESS}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):  # milestones are counted
        return sorted(value.items()) if set(value.values()) - {1} else sorted(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
