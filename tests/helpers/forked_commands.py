"""Commands of mmnat that start within a moment, for tests that run many.

As a script this is a server: it imports everything once and forks for each command. :class:`ForkedCommands`
starts it and asks it.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

LIMIT = 300  # seconds that a command may take; the system ends it then


class ForkedCommands:
    """The client of a server.

    Args:
        frameworks: What the server imports before the first command: 'mmdet', 'mmseg'.
    """

    def __init__(self, *frameworks: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *frameworks],
            env=os.environ | dict(OMP_NUM_THREADS='1'),
            stderr=subprocess.DEVNULL,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        log: Path,
        number: int = 0,
        when: float | str = 0,
    ) -> tuple[int, float]:
        """Run ``mmnat`` with some arguments.

        Args:
            arguments: The arguments, the name of the command first.
            folder: Where it runs.
            log: The file to which it appends what it prints.
            number: A signal that it gets, 0 for none.
            when: When it gets that: after so many seconds, or when it has printed a text.

        Returns:
            The exit code, negative for the signal that ended it, and how many seconds it took.
        """
        request = [*map(str, arguments)], str(folder), str(log), number, when
        self._process.stdin.write(json.dumps(request) + '\n')
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith('answer: '):
                return tuple(json.loads(line.removeprefix('answer: ')))
        raise AssertionError('the server has ended')

    def close(self) -> None:
        """End the server."""
        self._process.stdin.close()
        self._process.wait(60)


def _import(frameworks: Sequence[str]) -> None:
    from importlib import import_module

    for name in frameworks:
        import_module(f'{name}.utils').register_all_modules(init_default_scope=False)
        import_module(f'{name}_nat')
    for name in ('train', 'test', 'predict', 'label_maps', 'swap'):
        import_module(f'mmnat.commands.{name}')


def _run(arguments: list[str], folder: str, log: str) -> int:
    from mmnat.__main__ import main

    signal.alarm(LIMIT)
    with open(log, 'ab') as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(folder)
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _wait(when: float | str, log: str, begin: int, child: int) -> None:
    if not isinstance(when, str):
        time.sleep(when)
        return
    while (
        when not in _read(log, begin)
        and os.waitid(os.P_PID, child, os.WNOWAIT | os.WNOHANG | os.WEXITED) is None
    ):
        time.sleep(0.01)


def _read(log: str, begin: int) -> str:
    with open(log) as file:
        file.seek(begin)
        return file.read()


def main() -> None:
    _import(sys.argv[1:])
    for line in sys.stdin:
        arguments, folder, log, number, when = json.loads(line)
        begin = time.monotonic()
        with open(log, 'ab') as file:
            printed = file.tell()
        child = os.fork()
        if child == 0:
            code = _run(arguments, folder, log)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        if number:
            _wait(when, log, printed, child)
            os.kill(child, number)
        _, status = os.waitpid(child, 0)
        answer = [os.waitstatus_to_exitcode(status), time.monotonic() - begin]
        print('answer:', json.dumps(answer), flush=True)


if __name__ == '__main__':
    main()
