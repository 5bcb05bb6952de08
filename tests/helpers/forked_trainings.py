"""Trainings that start within a second, for tests that interrupt many; run as a script.

Its process imports everything once and forks for each training. It reads lines of JSON: the arguments of
`mmnat train`, a signal (0 for none) and when the training gets it: after so many seconds, or when it has
printed a text. It answers each, in a line that begins with "answer:", with the exit code, negative for the
signal that ended it, and how many seconds it took. What trainings print goes to the file that the command
line names.
"""

import json
import os
import sys
import time
import traceback

import mmdet.datasets
import mmdet.evaluation
import mmdet.models

import mmdet_nat
from mmnat.commands import train

assert mmdet.datasets and mmdet.evaluation and mmdet.models and mmdet_nat  # imported for the trainings


def _train(arguments: list[str], log: str) -> int:
    with open(log, 'ab') as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        train.main(arguments)
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
    log = sys.argv[1]
    for line in sys.stdin:
        arguments, number, when = json.loads(line)
        begin = time.monotonic()
        with open(log, 'ab') as file:
            printed = file.tell()
        child = os.fork()
        if child == 0:
            os._exit(_train(arguments, log))
        if number:
            _wait(when, log, printed, child)
            os.kill(child, number)
        _, status = os.waitpid(child, 0)
        answer = [os.waitstatus_to_exitcode(status), time.monotonic() - begin]
        print('answer:', json.dumps(answer), flush=True)


if __name__ == '__main__':
    main()
