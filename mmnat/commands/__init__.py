"""The commands of ``mmnat``, a module each; its docstring is the help. To be imported before torch."""

import multiprocessing

from mmnat.launch.processes import end_with_parent
from mmnat.launch.threads import wait_briefly

wait_briefly()
if multiprocessing.parent_process() is not None:  # a data worker that was not forked
    end_with_parent()
