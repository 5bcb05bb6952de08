"""Building mmengine's runner."""

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmnat.checkpoints.safety import DropEmbeddedConfig

from .distributed import init_distribution


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config that has been checked."""
    init_distribution(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(DropEmbeddedConfig())
    return runner
