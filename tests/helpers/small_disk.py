"""A disk that is soon full, and one that cannot be written."""

import os
import subprocess
import sys

import pytest

NEEDS_MOUNT = pytest.mark.skipif(
    sys.platform != 'linux' or os.geteuid() != 0, reason='only root can mount a file system, on Linux'
)


class Disk:
    """A file system in memory, mounted at a folder."""

    def __init__(self, folder, size):
        self.folder = folder
        folder.mkdir()
        run = subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', folder], capture_output=True, timeout=20
        )
        if run.returncode:  # root in a container may lack the right
            pytest.skip(f'no file system can be mounted here: {run.stderr.decode().strip()}')

    def remount(self, option):
        subprocess.run(['mount', '-o', f'remount,{option}', self.folder], check=True, timeout=20)

    def fill(self):
        """Take all space that is left, to the last page."""
        with open(self.folder / 'filler', 'ab', buffering=0) as file:
            try:
                while True:
                    file.write(b'x' * 4096)
            except OSError:
                pass

    def make_room(self):
        (self.folder / 'filler').unlink()

    def close(self):
        # Lazily: an open file must not keep it for ever.
        subprocess.run(['umount', '-l', self.folder], check=True, timeout=20)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / 'disk', '64m')
    yield disk
    disk.close()
