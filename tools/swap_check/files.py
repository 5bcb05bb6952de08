"""Writing a config."""

import os
from pathlib import Path

from mmengine.config import Config
from user_errors import UserError


def write_config(cfg: Config, path: str) -> None:
    """Write a config that inherits nothing, whole or not at all."""
    target = Path(path).expanduser()
    temporary = target.with_name(f'.{os.getpid()}_{target.name}')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(cfg.pretty_text)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}', 'give another --out') from error
    finally:
        temporary.unlink(missing_ok=True)
