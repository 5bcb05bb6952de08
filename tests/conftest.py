"""What all tests share. Helpers are in tests/helpers, which pyproject.toml makes importable."""

import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Last: what is installed comes first, the real packages before their stand-ins.
sys.path += [str(ROOT), str(ROOT / 'tests/helpers/stand_ins')]

import pytest  # noqa: E402
from earlier_runs import forget_earlier_runs  # noqa: E402

from mmnat import commands  # noqa: E402, F401 - before torch: it says how threads wait
from mmnat.launch.processes import end_with_parent  # noqa: E402

if 'PYTEST_XDIST_WORKER' in os.environ:
    end_with_parent()
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Shells start jobs in the background so; the processes that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def runs_of_other_tests():
    """Tests that run trainings in this process leave none of them to the next."""
    yield
    forget_earlier_runs()


def pytest_ignore_collect(collection_path, config):
    """With ``-m gpu`` import only those tests: machines with a GPU may lack what the others import."""
    if config.option.markexpr == 'gpu' and collection_path.suffix == '.py':
        return True if collection_path.parent.name != 'gpu' else None
    return None


def pytest_terminal_summary(terminalreporter):
    """Print how far the golden vectors were missed: the figures in docs/exactness.md."""
    passed = terminalreporter.getreports('passed')
    golden = [report for report in passed if '::test_golden[' in report.nodeid and report.user_properties]
    if golden:
        terminalreporter.section('largest difference to the golden vectors, relative to the largest value')
    for report in golden:
        case = report.nodeid.rpartition('[')[2].rstrip(']')
        errors = ', '.join(f'{name} {error:.1e}' for name, error in report.user_properties)
        terminalreporter.line(f'{case}: {errors}')
