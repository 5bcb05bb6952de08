"""Two machines for a test: network namespaces with a cable between them. Their file system is shared."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from cleaner import Cleaner

from mmnat.launch.processes import end_with_parent

INSTALL = 'apt-get install -y iproute2'
ADDRESSES = ('10.213.7.1', '10.213.7.2')

# With all that runs there.
DELETE = """
for name in "$@"; do
    ip netns pids "$name" | xargs -r kill -KILL
    ip netns delete "$name"
done
"""


def what_is_missing() -> str:
    """Why there can be no two machines here; empty if there can."""
    if sys.platform != 'linux' or os.geteuid() != 0:
        return f'needs Linux and root, and {INSTALL}'
    if shutil.which('ip') is None:
        return f'needs ip: {INSTALL}'
    name = f'mmnat{os.getpid()}try'
    made = subprocess.run(['ip', 'netns', 'add', name], capture_output=True, text=True)
    subprocess.run(['ip', 'netns', 'delete', name], capture_output=True)
    return f'needs network namespaces: {made.stderr.strip()}' if made.returncode else ''


class TwoHosts:
    """Runs commands on either of two machines, numbers 0 and 1, for as long as a ``with`` block."""

    def __init__(self) -> None:
        self.names = [f'mmnat{os.getpid()}h{number}' for number in range(2)]
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> 'TwoHosts':
        self._cleaner = Cleaner(DELETE, *self.names)
        try:
            for name in self.names:
                _ip('netns', 'add', name)
            ends = ('netns', self.names[0]), ('netns', self.names[1])
            _ip('link', 'add', 'eth0', *ends[0], 'type', 'veth', 'peer', 'name', 'eth0', *ends[1])
            for name, address in zip(self.names, ADDRESSES, strict=True):
                _ip('-n', name, 'address', 'add', f'{address}/24', 'dev', 'eth0')
                for device in ('lo', 'eth0'):
                    _ip('-n', name, 'link', 'set', device, 'up')
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleaner.close()
        for process in self._processes:
            process.wait(20)

    def start(self, number: int, command: list[str], log: Path, **options: object) -> subprocess.Popen:
        """Start a command on a machine; its output goes to a file."""
        with log.open('w') as file:
            process = subprocess.Popen(
                ['ip', 'netns', 'exec', self.names[number], *command],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
                **options,
            )
        self._processes.append(process)
        return process

    def kill(self, number: int) -> None:
        """End all processes of a machine, as a crash does, but for what the system says to the others."""
        found = subprocess.run(
            ['ip', 'netns', 'pids', self.names[number]], capture_output=True, text=True, timeout=20
        )
        for pid in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def unplug(self) -> None:
        """Pull the cable: nothing arrives any longer, and nobody is told."""
        _ip('-n', self.names[0], 'link', 'set', 'eth0', 'down')


def _ip(*words: str) -> None:
    subprocess.run(['ip', *words], check=True, capture_output=True, timeout=20)
