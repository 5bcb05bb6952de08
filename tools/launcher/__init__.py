"""Parts shared by the command-line launchers in ``tools``; import it before torch (see threads.py)."""

import multiprocessing

from .processes import end_with_parent
from .threads import wait_briefly

wait_briefly()
if multiprocessing.parent_process() is not None:  # a data worker that was not forked
    end_with_parent()
