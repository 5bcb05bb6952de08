"""Checkpoints survive whatever ends a training while one is written."""

import os
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, register_backend
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
            os.fsync(file.fileno())  # or else a crash of the machine may leave an empty file


class KeepingCheckpointHook(CheckpointHook):
    """mmengine's hook, which removes the oldest checkpoint only when the newest one is complete.

    mmengine removes it before, and with ``max_keep_ckpts=1`` a training that is killed in between has none.
    """

    file_backend: Any  # mmengine does not declare it

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        backend: Any = self.file_backend
        later = _RemovingLater(backend)
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
    HOOKS.register_module(name='CheckpointHook', module=KeepingCheckpointHook, force=True)
