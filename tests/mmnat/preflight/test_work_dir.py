"""The work directory: nothing starts that could not write."""

import os
import shutil
from collections import namedtuple

import pytest

pytest.importorskip('mmengine')

from mmengine.config import Config
from torch import nn

from mmnat.errors import UserError
from mmnat.preflight.work_dir import check_work_dir

Usage = namedtuple('Usage', 'total used free')


def check(path, model=None, **fields):
    check_work_dir(Config(dict(work_dir=str(path), **fields)), model)


@pytest.mark.parametrize('path', ['.', 'work', 'runs/a/b'])
def test_right_folders(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('path', ['file', 'file/work', 'file/a/b', 'link'])
def test_a_file_in_the_way(path, tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'link').symlink_to(tmp_path / 'gone')
    with pytest.raises(UserError, match=r'cannot be a folder: .*/(file|link) is a file; name another'):
        check(tmp_path / path)


@pytest.mark.parametrize('path', ['locked', 'locked/a/b'])
def test_read_only(path, tmp_path, monkeypatch):
    (tmp_path / 'locked').mkdir()
    # Tests may run as root, who may write everywhere.
    monkeypatch.setattr(os, 'access', lambda folder, mode: not str(folder).endswith('locked'))
    with pytest.raises(UserError, match=r'work_dir .* cannot be written: .*/locked is read-only'):
        check(tmp_path / path)
    check(tmp_path)


@pytest.mark.parametrize(
    ('free', 'model', 'fields', 'full'),
    [
        (0, None, {}, True),
        (2 * 2**20, None, {}, False),
        (2 * 2**20, nn.Linear(1024, 1024, bias=False), {}, True),
        (4 * 2**20, nn.Linear(1024, 1024, bias=False), {}, False),
        (2 * 2**20, nn.Linear(1024, 1024), dict(default_hooks=dict(checkpoint=None)), False),
        (2 * 2**20, nn.Linear(1024, 1024), dict(default_hooks=dict(checkpoint=dict(out_dir='x'))), False),
        (2 * 2**20, nn.Linear(1024, 1024), dict(default_hooks=dict(checkpoint=dict(interval=1))), True),
    ],
)
def test_space(free, model, fields, full, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: Usage(2**40, 2**40 - free, free))
    if full:
        with pytest.raises(UserError, match=f'its disk has {free // 2**20} MiB left, and the run writes'):
            check(tmp_path, model, **fields)
    else:
        check(tmp_path, model, **fields)


def test_file_systems_that_do_not_know_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: Usage(0, 0, 0))
    check(tmp_path, nn.Linear(1024, 1024))
