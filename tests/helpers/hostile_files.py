"""Runs the reader of a hostile file in a process of its own, within limits of time, memory and place."""

import contextlib
import copy
import io
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mmnat import errors

#: How many times as many inputs `make test-all` takes as `make test`: four minutes of two cores.
LONG = 80

#: For an input. Most take milliseconds; the limit is for a machine that does other things, too.
SECONDS = 30
MEGABYTES = 1024  # more than the process has at its start
_LONGEST = 3000  # characters in a message
_OUTSIDE = 'reached outside: '

# What a reader has no reason to do.
_NEVER = {
    *('os.system', 'os.exec', 'os.posix_spawn', 'os.spawn', 'os.fork', 'os.forkpty', 'subprocess.Popen'),
    *('pty.spawn', 'socket.connect', 'socket.bind', 'socket.getaddrinfo', 'urllib.Request'),
    *('os.kill', 'os.killpg', 'webbrowser.open', 'syslog.openlog', 'code.__new__'),
}
# What it may do in its folder only.
_INSIDE = {
    *('open', 'os.remove', 'os.rename', 'os.rmdir', 'os.mkdir', 'os.link', 'os.symlink', 'os.chmod'),
    *('os.truncate', 'os.utime', 'shutil.rmtree', 'shutil.move', 'shutil.copyfile'),
    'shutil.unpack_archive',
}


@dataclass(frozen=True)
class Outcome:
    """What became of an input: its kind, and the message or the traceback.

    Right are ``accepted`` and ``refused``; wrong are ``traceback``, ``message`` (that is not one line),
    ``crash``, ``hang``, ``memory`` and ``outside``.
    """

    kind: str
    text: str = ''

    @property
    def is_right(self):
        return self.kind in ('accepted', 'refused')


def put_no_file(path, kind):
    """Put something at a path that is no file: a pipe, a folder, a link to a device or to itself."""
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    else:
        path.symlink_to('/dev/zero' if kind == 'device' else path)


class Confined:
    """Calls a function for each input, in processes that it forks.

    Args:
        run: The function. It takes the input, and fails as a command of mmnat does.
        folder: The only place where it may write.
        per_process: How many inputs a process takes.
    """

    def __init__(self, run, folder, per_process=100):
        self.totals = Counter()
        self._run, self._folder, self._per_process = run, Path(folder), per_process
        self._process, self._left = None, 0
        self._begin = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()

    def __call__(self, item):
        """Give the outcome of an input."""
        if self._left == 0:
            self._stop()
            self._start()
        self._left -= 1
        self._connection.send(item)
        outcome = self._receive()
        self.totals[outcome.kind] += 1
        return outcome

    def report(self, name):
        """Print how many inputs there were and what became of them."""
        seconds = time.monotonic() - self._begin
        kinds = ', '.join(f'{count} {kind}' for kind, count in self.totals.most_common())
        print(f'\n{name}: {self.totals.total()} inputs in {seconds:.0f} s: {kinds}')

    def _start(self):
        context = multiprocessing.get_context('fork')
        self._connection, theirs = context.Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Python 3.12 warns of threads
            self._process = context.Process(target=self._serve, args=(theirs,), daemon=True)
            self._process.start()
        theirs.close()
        self._left = self._per_process

    def _stop(self):
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process, self._left = None, 0

    def _receive(self):
        if not self._connection.poll(SECONDS):
            self._stop()
            return Outcome('hang', f'no answer after {SECONDS} s')
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self._stop()
            return Outcome('crash', f'exit code {code}')

    def _serve(self, connection):
        reached = _guard(self._folder)
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silent, stream)
        os.chdir(self._folder)
        tempfile.tempdir = str(self._folder)
        _limit_memory()
        while True:
            try:
                item = connection.recv()
            except EOFError:
                os._exit(0)
            reached.clear()
            errors.warn.cache_clear()
            outcome = _outcome(self._run, item)
            if reached:
                outcome = Outcome('outside', f'{reached} {outcome.text}')
            connection.send(outcome)


def _outcome(run, item):
    out, err = io.StringIO(), io.StringIO()
    sys.excepthook = sys.__excepthook__
    try:
        with contextlib.redirect_stdout(_Strict(out)), contextlib.redirect_stderr(err):
            errors.report_user_errors(run)(item)
    except SystemExit as end:
        return _check_message(end.code, err.getvalue())
    except MemoryError:
        return Outcome('memory', traceback.format_exc())
    except BaseException:
        return Outcome('traceback', traceback.format_exc())
    return Outcome('accepted')


class _Strict(io.TextIOBase):
    """A stream that takes what a terminal does."""

    def __init__(self, out):
        self._out = out

    def write(self, text):
        text.encode()
        return self._out.write(text)


def _check_message(code, text):
    lines = text.splitlines()
    wrong = [line for line in lines if line.startswith('error: ')] != lines[-1:]
    last = lines[-1] if lines else ''
    if (
        code != errors.EXIT_CODE
        or wrong
        or len(last) > _LONGEST
        or not last.isprintable()
        or '; ' not in last
    ):
        return Outcome('message', f'{code}: {text[-5000:]!r}')
    return Outcome('memory' if 'out of memory' in last else 'refused', last)


def _limit_memory():
    with open('/proc/self/statm') as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEGABYTES * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _guard(folder):
    """Note, and forbid, what reaches outside of a folder from now on."""
    reached = []
    root = os.path.realpath(folder) + os.sep

    def hook(event, args):
        forbidden = event in _NEVER or (event == 'ctypes.dlopen' and args[0] is not None)
        if event in _INSIDE and args and isinstance(args[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(args[0]))
            writes = event != 'open' or bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            forbidden = writes and not (path + os.sep).startswith(root) and path != os.devnull
        if forbidden:
            reached.append(f'{event} {args!r}'[:300])
            raise PermissionError(_OUTSIDE + event)

    sys.addaudithook(hook)
    return reached


def examples(count, long=False):
    """Settings for a number of inputs: more for the long tests; others in each run of ``make fuzz``."""
    return settings(
        max_examples=count * (LONG if long else 1),
        derandomize='FUZZ' not in os.environ,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def mutated(draw, originals):
    """Bytes that differ from those of a file in a few places, or end early."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.sampled_from((0, 1, 1, 2, 4, 8, 30)))
        kind = draw(st.sampled_from(('replace', 'replace', 'cut', 'end', 'repeat')))
        if kind == 'replace':
            content[place : place + length] = draw(_PIECES)
        elif kind == 'cut':
            del content[place : place + length]
        elif kind == 'end':
            del content[place:]
        else:
            content[place:place] = content[place : place + length] * draw(st.integers(1, 50))
    return bytes(content)


_PIECES = st.one_of(
    st.sampled_from(
        (
            b'\0',
            b'\xff',
            b'\x80',
            b'\x7f' * 4,
            b'\xff' * 4,
            b'\xff' * 8,
            b'\0' * 8,
            b'\0\0\0\x80',
            b'-1',
            b'..',
        )
    ),
    st.binary(max_size=8),
)


#: Values of the types that JSON and Python have, and that are often not the type that is wanted.
ODD_VALUES = st.sampled_from(
    (
        *(
            None,
            True,
            False,
            0,
            1,
            -1,
            3,
            2**31,
            2**63,
            10**400,
            0.5,
            -0.0,
            1e308,
            float('nan'),
            float('inf'),
        ),
        *('', 'a', '1', 'a\nb\x1b[31m', '\0', '\ud800', '../../x', '/etc/passwd', 'x' * 100_000),
        *([], [[]], [None], [1, 2], ['a'], {}, {'type': 'a'}, {'a': {'b': []}}, [[[[[]]]]], [{}]),
    )
).map(copy.deepcopy)  # they may be changed, too


def places(tree, path=()):
    """The path of each part of nested dicts and lists, but not of the whole."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = []
    for key, value in items:
        found += [(*path, key), *places(value, (*path, key))]
    return found


def replaced(tree, path, value):
    """Replace a part of nested dicts and lists in place; ``...`` removes it."""
    for key in path[:-1]:
        tree = tree[key]
    if value is ...:
        del tree[path[-1]]
    else:
        tree[path[-1]] = value
