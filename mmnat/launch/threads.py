"""Sets how long threads wait for each other before they sleep."""

import os
from collections.abc import MutableMapping

# Iterations of the loop in which GNU's OpenMP waits; they take a fraction of a millisecond. Its own
# default, 300,000, is good if nothing else uses the cores. Otherwise a waiting thread occupies a core, and
# the thread for which it waits cannot run there.
SPIN_COUNT = 5_000
_CHOSEN_BY_USER = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')


def wait_briefly(variables: MutableMapping[str, str] = os.environ) -> None:
    """Make OpenMP's threads sleep soon if they have to wait. Call it before torch is imported.

    Args:
        variables: The environment. Nothing changes if the user has already set how threads wait.
    """
    if not any(name in variables for name in _CHOSEN_BY_USER):
        variables['GOMP_SPINCOUNT'] = str(SPIN_COUNT)
