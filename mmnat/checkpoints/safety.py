"""Prevents mmengine and other libraries from executing code in a checkpoint."""

import os

from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader, Runner

from .reading import read_checkpoint


def forbid_unsafe_loading() -> None:
    """Make every load in this process read tensors and plain data only.

    mmengine falls back to ``weights_only=False`` if a safe load rejects a checkpoint, and other libraries
    pass it from the start. torch's environment variable overrides both.
    """
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    # mmengine's own loaders would allow the real `getattr`.
    CheckpointLoader.register_scheme(['', 'http://', 'https://'], read_checkpoint, force=True)


class DropEmbeddedConfig(Hook):
    """Drops the config in a checkpoint's ``meta``, which mmengine would execute when it resumes."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Drop it. The runner calls this after it has read a checkpoint, and before it uses it."""
        checkpoint.get('meta', {}).pop('config', None)
