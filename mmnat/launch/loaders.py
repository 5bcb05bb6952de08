"""Fits the settings of data loaders to their number of workers."""

from mmengine.config import Config

from mmnat.preflight.loaders import OF_WORKERS


def drop_settings_of_workers(cfg: Config) -> None:
    """Without workers, drop the settings about them: torch would reject them.

    The base configs have ``persistent_workers=True``, and ``num_workers=0`` is often set to debug.

    Args:
        cfg: The config, which is changed.
    """
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(field)
        if isinstance(loader, dict) and loader.get('num_workers', 0) == 0:
            for name in OF_WORKERS:
                loader.pop(name, None)
