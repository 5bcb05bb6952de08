"""Curves from logs, also those of trainings that were killed."""

import json

import pytest

from mmnat.commands import plot
from mmnat.errors import UserError


def record(step, loss=1.0):
    return json.dumps(dict(loss=loss, step=step)) + '\n'


def log(root, run, content):
    path = root / run / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize('rest', ['{"loss": 0.1, "it', '{', '\0\0\0', b'\xff\xfe', '\n\n', ''])
def test_the_last_line_may_be_cut(tmp_path, rest):
    rest = rest if isinstance(rest, bytes) else rest.encode()
    log(tmp_path, '1', record(1).encode() + rest)
    log(tmp_path, '2', record(2, 0.5))
    assert plot.read_scalars(tmp_path)['loss'] == {1: 1.0, 2: 0.5}


@pytest.mark.parametrize('line', ['{"loss": 0.1, "it', '[1]', '{"loss": 1}', '5', 'text'])
def test_a_broken_line_inside_is_named(tmp_path, line):
    path = log(tmp_path, '1', record(1) + f'{line}\n' + record(3))
    with pytest.raises(UserError, match=f'log {path}, line 2, is no record of a training; remove the line'):
        plot.read_scalars(tmp_path)


def test_nothing_but_a_cut_line_is_no_log(tmp_path):
    log(tmp_path, '1', '{"loss": 0.1, "it')
    with pytest.raises(UserError, match='holds no training logs'):
        plot.read_scalars(tmp_path)


def test_only_pictures_are_replaced(tmp_path, capsys):
    log(tmp_path, '1', record(1))
    mine = tmp_path / 'mine.py'
    mine.write_text('mine = 1\n')
    with pytest.raises(SystemExit):
        plot.main([str(tmp_path), '--out', str(mine)])
    assert 'mine.py exists and is no PNG; name another' in capsys.readouterr().err
    assert mine.read_text() == 'mine = 1\n'
    for _ in range(2):
        plot.main([str(tmp_path)])
    assert (tmp_path / 'curves.png').read_bytes().startswith(b'\x89PNG')
