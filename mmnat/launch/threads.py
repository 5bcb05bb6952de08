"""How long threads wait for each other before they sleep."""

import os
from collections.abc import MutableMapping

# Turns of the loop in which GNU's OpenMP waits, a fraction of a millisecond. Its own 300,000 are fine if
# nobody else uses the cores; otherwise a thread that waits keeps the one that it waits for from running.
SPIN_COUNT = 5_000
_CHOSEN_BY_USER = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')


def wait_briefly(variables: MutableMapping[str, str] = os.environ) -> None:
    """Have threads of OpenMP sleep soon if they have to wait; before torch is imported.

    Args:
        variables: The environment to do it in; nothing changes if it already says how to wait.
    """
    if not any(name in variables for name in _CHOSEN_BY_USER):
        variables['GOMP_SPINCOUNT'] = str(SPIN_COUNT)
