"""Settings of workers without workers."""

import pytest

pytest.importorskip('mmengine')

from mmengine.config import Config
from torch.utils.data import DataLoader

from mmnat.errors import UserError
from mmnat.launch.loaders import drop_settings_of_workers
from mmnat.preflight.loaders import OF_WORKERS, check_loaders

SETTINGS = dict(persistent_workers=True, prefetch_factor=2, timeout=9, multiprocessing_context='fork')


@pytest.mark.parametrize('stage', ['train', 'val', 'test'])
def test_torch_takes_what_is_left(stage):
    assert set(SETTINGS) == set(OF_WORKERS)
    loader = dict(num_workers=0, batch_size=2, **SETTINGS)
    cfg = Config({f'{stage}_dataloader': loader})
    drop_settings_of_workers(cfg)
    assert cfg[f'{stage}_dataloader'] == dict(num_workers=0, batch_size=2)
    assert list(DataLoader([1, 2], **cfg[f'{stage}_dataloader']))


def test_with_workers_nothing_changes():
    cfg = Config(dict(train_dataloader=dict(num_workers=2, **SETTINGS), val_dataloader=None))
    drop_settings_of_workers(cfg)
    assert cfg.train_dataloader == dict(num_workers=2, **SETTINGS)


@pytest.mark.parametrize('name', OF_WORKERS)
def test_other_launchers_get_a_message(name):
    loader = dict(num_workers=0, **{name: SETTINGS[name]})
    with pytest.raises((ValueError, AssertionError)):  # torch's
        list(DataLoader([1, 2], **loader))
    with pytest.raises(UserError, match=f'train_dataloader has num_workers = 0 and {name}'):
        check_loaders(Config(dict(train_dataloader=loader)), ('train_dataloader',))


@pytest.mark.parametrize(
    ('loader', 'expected'),
    [
        (dict(num_workers=-1), 'num_workers = -1 is not a number of processes'),
        (dict(num_workers='2'), "num_workers = '2'"),
        (dict(batch_size=0), 'batch_size = 0 is not a number of images'),
        (dict(batch_size=2.0), r'batch_size = 2\.0'),
    ],
)
def test_wrong_numbers(loader, expected):
    with pytest.raises(UserError, match=r'val_dataloader\.' + expected):
        check_loaders(Config(dict(val_dataloader=loader)), ('train_dataloader', 'val_dataloader'))


def test_right_loaders():
    loader = dict(num_workers=2, batch_size=1, persistent_workers=True)
    quiet = dict(num_workers=0, persistent_workers=False, prefetch_factor=None)
    cfg = Config(dict(train_dataloader=loader, val_dataloader=quiet, test_dataloader=None))
    check_loaders(cfg, ('train_dataloader', 'val_dataloader', 'test_dataloader'))
