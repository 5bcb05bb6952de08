"""What schedulers and clouds do to a training: they send SIGTERM, and some seconds later SIGKILL."""

import os.path as osp
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner

from mmnat.atomic_file import atomic_write

from .distributed import time_limit

EXIT_CODE = 128 + signal.SIGTERM
NAME = 'interrupted.pth'


class SaveOnTermination(Hook):
    """Saves a checkpoint after SIGTERM, when the present iteration is done, and ends with exit code 143.

    With gradient accumulation it waits until the weights are updated. In a distributed run all processes
    stop after the same iteration. ``--resume`` goes on from the checkpoint, which the end of the training
    removes.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._is_terminated = False
        self._before: Any = None
        self._group: dist.ProcessGroup | None = None

    def before_train(self, runner: Runner) -> None:
        """Begin to listen."""
        if get_world_size() > 1:
            # Signals come at different times. A group on the CPU keeps GPUs from waiting for the answer.
            self._group = dist.new_group(backend='gloo', timeout=time_limit(runner.cfg))
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: Any) -> None:
        self._is_terminated = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the training at once

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Save and end, if some process has been told to."""
        wrapper = runner.optim_wrapper
        counts = getattr(wrapper, '_accumulative_counts', 1)
        if (runner.iter + 1) % counts and runner.iter + 1 < runner.max_iters:
            return
        if self._is_any_terminated():
            self._save_and_end(runner, runner.iter + 1)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """The same during validation, of a run that is not distributed."""
        if self._is_terminated and self._group is None:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # validates the averages in the weights' place
                    hook.after_val_epoch(runner)
            self._save_and_end(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Stop listening; the checkpoint is no longer needed."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        hook = _checkpoint_hook(runner)
        if hook is None or not is_main_process():
            return
        # If the last validation was interrupted, nothing has been trained and saved since.
        newest = Path(runner.work_dir) / 'last_checkpoint'
        if not newest.is_file() or osp.basename(newest.read_text().strip()) != NAME:
            (Path(hook.out_dir) / NAME).unlink(missing_ok=True)

    def _is_any_terminated(self) -> bool:
        if self._group is None:
            return self._is_terminated
        flag = torch.tensor(int(self._is_terminated))
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def _save_and_end(self, runner: Runner, iterations: int) -> NoReturn:
        hook = _checkpoint_hook(runner)
        if hook is None:
            _say('terminated; nothing is saved, because the config has no checkpoint hook')
            raise SystemExit(EXIT_CODE)
        runner.save_checkpoint(
            hook.out_dir,
            NAME,
            hook.file_client_args,
            save_optimizer=hook.save_optimizer,
            save_param_scheduler=hook.save_param_scheduler,
            meta=dict(epoch=runner.epoch, iter=iterations),
            backend_args=hook.backend_args,
        )
        path = osp.join(hook.out_dir, NAME)
        if is_main_process():
            with atomic_write(Path(runner.work_dir) / 'last_checkpoint') as file:
                file.write_text(path)
        if self._group is not None:
            if self._before is not None:
                # It is ending. When the first process has ended, srun sends another one to the rest.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            dist.barrier(self._group)  # the launcher ends all processes when one has ended
        _say(f'terminated; saved {path}, from which --resume goes on')
        raise SystemExit(EXIT_CODE)


def _checkpoint_hook(runner: Runner) -> CheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)


def _say(message: str) -> None:
    if is_main_process():
        print(message, file=sys.stderr, flush=True)
