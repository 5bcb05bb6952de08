"""Files and folders that appear complete or not at all."""

import errno

import pytest

from mmnat.atomic_file import atomic_files, atomic_write, check_writable
from mmnat.errors import UserError


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / 'deep/file'
    with atomic_write(path) as unfinished:
        unfinished.write_text('first')
        assert not path.exists()
    with atomic_write(path) as unfinished:
        unfinished.write_text('second')
        assert path.read_text() == 'first'
    assert path.read_text() == 'second' and list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_what_was_there(tmp_path):
    path = tmp_path / 'file'
    path.write_text('good')
    with pytest.raises(ZeroDivisionError), atomic_write(path) as unfinished:
        unfinished.write_text('half')
        1 / 0  # noqa: B018
    assert path.read_text() == 'good' and list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_and_replaces_no_other(tmp_path):
    path = tmp_path / 'folder'
    with atomic_write(path) as unfinished:
        unfinished.mkdir()
        (unfinished / 'inside').touch()
    with pytest.raises(UserError, match='cannot be written'), atomic_write(path) as unfinished:
        unfinished.mkdir()
    assert [file.name for file in path.iterdir()] == ['inside']


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match='it is a folder; choose another'):
        check_writable(tmp_path)
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be written: File exists; choose another'):
        check_writable(tmp_path / 'file/inside')
    check_writable(tmp_path / 'new/file')
    assert not (tmp_path / 'new/file').exists()


def test_files_replace_those_of_their_names(tmp_path):
    folder = tmp_path / 'out'
    folder.mkdir()
    for name in 'ab':
        (folder / name).write_text('old')
    expected = 'out cannot be written: No space left on device; free some space'
    with pytest.raises(UserError, match=expected), atomic_files(folder) as unfinished:
        (unfinished / 'a').write_text('half')
        raise OSError(errno.ENOSPC, 'No space left on device')
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict(a='old', b='old')
    with atomic_files(folder) as unfinished:
        (unfinished / 'a').write_text('new')
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict(a='new', b='old')
