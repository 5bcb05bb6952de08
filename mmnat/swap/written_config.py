"""Write a config."""

from pathlib import Path

from mmengine.config import Config

from mmnat.atomic_file import atomic_write
from mmnat.errors import UserError


def write_config(cfg: Config, path: str) -> None:
    """Write a config that inherits nothing, whole or not at all.

    Raises:
        UserError: If the config has values that a file cannot hold, such as functions.
    """
    try:
        text = cfg.pretty_text
        same = Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    except Exception as error:  # a text that is no config may raise anything
        lines = str(error).splitlines() or [type(error).__name__]
        raise _unwritable(path, lines[0]) from error
    if not same:
        raise _unwritable(path, 'what is written is not what is read')
    with atomic_write(Path(path)) as unfinished:
        unfinished.write_text(text)


def _unwritable(path: str, reason: str) -> UserError:
    return UserError(
        f'{path} cannot hold the config: {reason}', 'give its values as text, numbers, lists and dicts'
    )
