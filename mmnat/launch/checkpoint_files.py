"""Checkpoints survive whatever ends a training while one is written."""

import os
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio.io import backend_instances
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmnat.atomic_file import atomic_write


class AtomicLocalBackend(LocalBackend):
    """Files on a local disk that appear complete or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file, or leave what is there."""
        with atomic_write(Path(filepath)) as unfinished, unfinished.open('wb') as file:
            file.write(obj)
            file.flush()
            if str(filepath).endswith('.pth'):
                os.fsync(file.fileno())  # or else a crash of the machine may leave an empty file

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """The same for text."""
        self.put(obj.encode(encoding), filepath)


class KeepingCheckpointHook(CheckpointHook):
    """mmengine's hook, which removes the oldest checkpoint only when the newest one is complete.

    mmengine removes it before, and with ``max_keep_ckpts=1`` a training that is killed in between has none.
    If ``last_checkpoint`` is a symbolic link, mmengine overwrites what it leads to; here the link goes.
    """

    file_backend: Any  # mmengine does not declare it

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        backend: Any = self.file_backend
        later = _RemovingLater(backend)
        named = Path(runner.work_dir) / 'last_checkpoint'
        if is_main_process() and named.is_symlink():
            named.unlink()
        self.file_backend = later
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            self.file_backend = backend
        later.remove_now()


class _RemovingLater:
    """A file backend that keeps what it is told to remove until ``remove_now``."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._removals: list[tuple[Any, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._removals.append((self._backend.remove, path))

    def rmtree(self, path: str) -> None:
        self._removals.append((self._backend.rmtree, path))

    def remove_now(self) -> None:
        for remove, path in self._removals:
            remove(path)


def keep_good_checkpoints() -> None:
    """Make the runs of this process write files at once, and remove checkpoints last."""
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')
    backend_instances.clear()  # those that mmengine keeps are of the class of before
    HOOKS.register_module(name='CheckpointHook', module=KeepingCheckpointHook, force=True)
