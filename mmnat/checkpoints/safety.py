"""Keeps mmengine and others from executing code that a checkpoint holds."""

import os

from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader, Runner

from .reading import read_checkpoint


def forbid_unsafe_loading() -> None:
    """Have every load in this process read tensors and plain data only.

    mmengine falls back to ``weights_only=False`` for a checkpoint that a safe load refuses,
    and others ask for it outright. torch's environment variable overrules both.
    """
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    # mmengine's own loaders allow the real `getattr`.
    CheckpointLoader.register_scheme(['', 'http://', 'https://'], read_checkpoint, force=True)


class DropEmbeddedConfig(Hook):
    """Drop the config in a checkpoint's ``meta``, which mmengine executes when it resumes."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Called by the runner between loading a checkpoint and using it."""
        checkpoint.get('meta', {}).pop('config', None)
