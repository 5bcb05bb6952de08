"""Files whose names come from data stay below the output folder, one each."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnat.errors import UserError
from mmnat.output_files import check_kept, output_paths


def places(folder, *names, suffix=None):
    return output_paths(folder, [(f'entry {i}', name) for i, name in enumerate(names)], suffix)


def test_names_are_kept_and_suffixes_replaced(tmp_path):
    assert places(tmp_path, 'a.jpg', 'sub/a.jpg', 'sub/b') == [
        tmp_path / 'a.jpg',
        tmp_path / 'sub/a.jpg',
        tmp_path / 'sub/b',
    ]
    assert places(tmp_path, 'a.jpg', 'x/../b.c.jpg', suffix='.png') == [
        tmp_path / 'a.png',
        tmp_path / 'b.c.png',
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('name', 'problem'),
    [
        ('/etc/a.png', 'entry 0 is an absolute path'),
        ('../a.png', 'entry 0 leads out of the output folder'),
        ('sub/../../a.png', 'entry 0 leads out of the output folder'),
        ('a\0.png', 'entry 0 has characters that no file name can have'),
        ('\ud800.png', 'entry 0 has characters that no file name can have'),
        ('', 'entry 0 names no file'),
        ('sub/', 'entry 0 names no file'),
        ('sub/..', 'entry 0 names no file'),
    ],
)
def test_names_that_lead_elsewhere(tmp_path, name, problem):
    with pytest.raises(UserError, match=problem):
        places(tmp_path, name)


@pytest.mark.parametrize(
    'names',
    [
        ('a.jpg', 'a.png'),
        ('a.jpg', 'A.jpg'),
        ('Sub/a.jpg', 'sub/a.jpg'),
        ('a.jpg', 'x/../a.jpg'),
        ('e\u0301.jpg', '\u00e9.jpg'),
        ('a.jpg', 'a.png/b.jpg'),
        ('a.png/b.jpg', 'a.jpg'),
        ('other.jpg', 'a.png/b.jpg', 'A.bmp'),
    ],
)
def test_two_names_of_one_file(tmp_path, names):
    with pytest.raises(UserError, match=r'entry \d and entry \d would be written to one place, .*; rename'):
        places(tmp_path, *names, suffix='.png')


def test_links_and_folders(tmp_path):
    out, outside = tmp_path / 'out', tmp_path / 'outside'
    (out / 'taken.png').mkdir(parents=True)
    outside.mkdir()
    (out / 'link').symlink_to(outside)
    (out / 'file.png').symlink_to(outside / 'not there.png')
    (out / 'inside').symlink_to(out)
    (out / 'plain').touch()
    assert places(out, 'inside/a.png') == [out / 'inside/a.png']
    for name, problem in (
        ('link/a.png', f'entry 0: {out}/link/a.png leads through a symbolic link to {outside}/a.png'),
        ('file.png', 'leads through a symbolic link'),
        ('taken.png', 'taken.png is a folder'),
        ('plain/a.png', 'plain is a file, not a folder'),
    ):
        with pytest.raises(UserError, match=problem):
            places(out, name)


def test_a_folder_that_is_a_link_itself_is_meant(tmp_path):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'real')
    assert places(tmp_path / 'link', 'a.png') == [tmp_path / 'link/a.png']


PARTS = st.sampled_from(['a', 'A', 'b.png', 'b.jpg', '.', '..', '', 'c d', '\u00e9', 'e\u0301'])


@given(st.lists(st.lists(PARTS, max_size=4).map('/'.join), max_size=5), st.sampled_from([None, '.png']))
def test_whatever_is_not_refused_is_inside_and_apart(tmp_path_factory, names, suffix):
    folder = Path(os.path.abspath('no such folder'))
    try:
        paths = places(folder, *names, suffix=suffix)
    except UserError as error:
        assert 'entry' in str(error) and '; ' in str(error)
        return
    assert len({str(path).casefold() for path in paths}) == len(names)
    for path in paths:
        assert os.path.abspath(path) == str(path) and path.is_relative_to(folder) and path != folder
        assert not any(other in path.parents for other in paths)
        assert suffix is None or path.suffix == suffix


@given(st.lists(st.from_regex(r'[a-z]{1,3}(/[a-z]{4})?', fullmatch=True), unique=True))
def test_plain_names_are_never_refused(names):
    files = {name for name in names if not any(other.startswith(f'{name}/') for other in names)}
    assert len(places(Path('no such folder'), *files)) == len(files)


def test_inputs_are_kept(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path)
    check_kept([tmp_path / 'b'], [tmp_path / 'a'], '--out x')
    with pytest.raises(UserError, match=r'--out x would overwrite the input .*/a; name another place'):
        check_kept([tmp_path / 'link/a'], [str(tmp_path / 'a')], '--out x')
