"""Two trainings in one work directory."""

import subprocess
import sys

import pytest

from mmnat.errors import UserError
from mmnat.launch import work_dir_lock
from mmnat.launch.work_dir_lock import work_dir_of_its_own

HOLD = """if True:
    import sys, time
    from mmnat.launch.work_dir_lock import work_dir_of_its_own
    with work_dir_of_its_own(sys.argv[1]):
        print('holds', flush=True)
        time.sleep(600)
"""


def test_one_at_a_time(tmp_path):
    work_dir = str(tmp_path / 'a/b')
    for _ in range(2):  # it is let go at the end
        with work_dir_of_its_own(work_dir), work_dir_of_its_own(str(tmp_path / 'other')):
            message = f'another training is running in the work directory {work_dir};'
            with pytest.raises(UserError, match=message), work_dir_of_its_own(work_dir):
                pass


def test_a_killed_training_holds_nothing(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'holds\n'
    with pytest.raises(UserError), work_dir_of_its_own(str(tmp_path)):
        pass
    process.kill()
    process.wait()
    with work_dir_of_its_own(str(tmp_path)):
        pass


def test_file_systems_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError('no locks available')

    monkeypatch.setattr(work_dir_lock.fcntl, 'flock', refuse)
    with work_dir_of_its_own(str(tmp_path)):
        pass


@pytest.mark.parametrize('kind', ['loop', 'folder'])
def test_what_is_in_the_way(tmp_path, kind):
    path = tmp_path / '.training'
    path.symlink_to(path) if kind == 'loop' else path.mkdir()
    expected = rf'{path} cannot be written: .*; correct that, or name another'
    with pytest.raises(UserError, match=expected), work_dir_of_its_own(str(tmp_path)):
        pass
