"""Writing a config."""

from pathlib import Path

from mmengine.config import Config
from replaced_file import replacing


def write_config(cfg: Config, path: str) -> None:
    """Write a config that inherits nothing, whole or not at all."""
    with replacing(Path(path).expanduser()) as unfinished:
        unfinished.write_text(cfg.pretty_text)
