"""What mmengine keeps of the runs of a process."""

import sys


def forget_earlier_runs(also=()):
    """Drop visualizers, which would keep the folders of earlier runs, and other such instances."""
    mmengine = sys.modules.get('mmengine.visualization')
    kinds = [mmengine.Visualizer, *mmengine.Visualizer.__subclasses__()] if mmengine else []
    for kind in (*kinds, *also):
        kind._instance_dict.clear()
