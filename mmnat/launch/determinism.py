"""``randomness = dict(deterministic=True)`` of a config."""

import os
from collections.abc import MutableMapping

from mmengine.config import Config


def prepare_cublas(cfg: Config, variables: MutableMapping[str, str] = os.environ) -> None:
    """Let cuBLAS be deterministic if the config wants that: torch rejects its products otherwise.

    Call it before anything is computed on a GPU.

    Args:
        cfg: The config.
        variables: The environment. What the user has set there stays.
    """
    if (cfg.get('randomness') or {}).get('deterministic'):
        variables.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
