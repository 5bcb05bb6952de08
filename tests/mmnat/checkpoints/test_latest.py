"""The checkpoint to resume from, also if the work directory moved."""

import os

import pytest

pytest.importorskip('mmengine')

from mmnat.checkpoints.latest import latest_checkpoint, other_checkpoints
from mmnat.errors import UserError


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'work').mkdir()
    return tmp_path / 'work'


def write(path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'')


@pytest.mark.parametrize(
    'named', ['{folder}/iter_2.pth', '/elsewhere/runs/iter_2.pth', 'runs/first/iter_2.pth']
)
def test_file_in_the_folder(work, named):
    write(work / 'iter_2.pth')
    (work / 'last_checkpoint').write_text(named.format(folder=work))
    assert latest_checkpoint('work') == 'work/iter_2.pth'


def test_file_elsewhere(work):
    # The checkpoint hook may have its own out_dir.
    other = work.parent / 'checkpoints/iter_2.pth'
    write(other)
    (work / 'last_checkpoint').write_text(f'{other}\n')
    assert latest_checkpoint(str(work)) == str(other)


@pytest.mark.parametrize('content', [None, '', '\n'])
def test_nothing_named(work, content):
    if content is not None:
        (work / 'last_checkpoint').write_text(content)
    with pytest.raises(UserError, match='--resume finds no checkpoint in work; leave out --resume'):
        latest_checkpoint('work')


def test_file_gone(work):
    (work / 'last_checkpoint').write_text('/elsewhere/iter_2.pth')
    expected = 'neither /elsewhere/iter_2.pth, which work/last_checkpoint names, nor work/iter_2.pth; name'
    with pytest.raises(UserError, match=expected):
        latest_checkpoint('work')


def test_an_empty_list_does_not_hide_the_newest(tmp_path):
    for age, name in enumerate(['best_epoch_1.pth', 'epoch_2.pth', 'epoch_1.pth', 'other.pth']):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / 'last_checkpoint').touch()
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')


def test_links_that_lead_nowhere_are_no_checkpoints(tmp_path):
    (tmp_path / 'epoch_1.pth').touch()
    (tmp_path / 'epoch_2.pth').symlink_to('epoch_2.pth')
    (tmp_path / 'epoch_3.pth').symlink_to('gone.pth')
    (tmp_path / 'last_checkpoint').symlink_to('last_checkpoint')
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')


def test_other_checkpoints(tmp_path):
    for age, name in enumerate(['iter_4.pth', 'interrupted.pth', 'iter_2.pth', 'best_iter_2.pth']):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    others = [str(tmp_path / name) for name in ('interrupted.pth', 'iter_2.pth')]
    assert other_checkpoints(str(tmp_path / 'iter_4.pth')) == others
