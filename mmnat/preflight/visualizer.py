"""The backends of the visualizer, to which a run logs."""

import importlib.util
from collections import Counter
from typing import Any

from mmengine.config import Config
from mmengine.registry import VISBACKENDS

from mmnat.errors import UserError

from .registries import registered

#: The packages that mmengine's backends import when the run starts.
_PACKAGES = {
    'TensorboardVisBackend': ('tensorboard',),
    'WandbVisBackend': ('wandb',),
    'MLflowVisBackend': ('mlflow',),
    'ClearMLVisBackend': ('clearml',),
    'NeptuneVisBackend': ('neptune',),
    'DVCLiveVisBackend': ('pygit2', 'dvclive'),
    'AimVisBackend': ('aim',),
}
_FIELD = 'visualizer.vis_backends'


def check_vis_backends(cfg: Config) -> None:
    """Check that the packages of the backends are installed and no backend is there twice.

    Args:
        cfg: The config, whose types are registered.

    Raises:
        UserError: If a package is missing, or two backends have one name.
    """
    visualizer = cfg.get('visualizer')
    backends = (visualizer.get('vis_backends') if isinstance(visualizer, dict) else None) or []
    backends = [backends] if isinstance(backends, dict) else backends
    kinds = [(part, _class(part.get('type'))) for part in backends if part.get('type')]
    for _, kind in kinds:
        for package in _packages(kind):
            if importlib.util.find_spec(package) is None:
                raise UserError(
                    f'{_FIELD}: {kind.__name__} needs {package}, which is not installed',
                    f'run pip install {package}, or remove the backend from the config',
                )
    names = Counter(part.get('name') or kind.__name__ for part, kind in kinds)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(
            f'{_FIELD} has {" and ".join(twice)} more than once',
            'keep one, or give each its own name=...',
        )


def _class(kind: Any) -> type:
    return registered(VISBACKENDS, kind) if isinstance(kind, str) else kind


def _packages(kind: type) -> tuple[str, ...]:
    return next((_PACKAGES[base.__name__] for base in kind.__mro__ if base.__name__ in _PACKAGES), ())
