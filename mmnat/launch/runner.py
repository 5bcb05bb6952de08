"""Building mmengine's runner."""

from typing import Any

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from mmnat.checkpoints.safety import DropEmbeddedConfig

from .agreement import SameStart
from .checkpoint_files import keep_good_checkpoints
from .compiling import OptimizerUncompiled, is_compiled
from .determinism import prepare_cublas
from .distributed import init_distribution
from .exact_resume import ExactResume
from .log_files import end_if_refused
from .seeded_model import SeededModel
from .termination import SaveOnTermination


def build_runner(cfg: Config, built: SeededModel | None = None) -> Runner:
    """Build the runner of a config that has been checked.

    Args:
        cfg: The config.
        built: Its model, for the runner to take. The runner still builds its own if its class has another
            way to build models, or if the run is distributed and its seed is not known before the processes
            are connected.
    """
    compiled = is_compiled(cfg)
    prepare_cublas(cfg)
    init_distribution(cfg)
    keep_good_checkpoints()
    end_if_refused()
    kind = _runner_class(cfg)
    if built is not None and kind.build_model is Runner.build_model and _seed_is_known(cfg):
        kind = _taking(built, kind)
    runner = kind.from_cfg(cfg)
    runner.is_checked = True  # for mmnat.preflight.enforce
    runner.register_hook(DropEmbeddedConfig())
    runner.register_hook(ExactResume())
    runner.register_hook(SaveOnTermination())
    runner.register_hook(SameStart())
    if compiled:
        runner.register_hook(OptimizerUncompiled())
    return runner


def _runner_class(cfg: Config) -> type[Runner]:
    kind = cfg.get('runner_type', Runner)
    if isinstance(kind, str):
        with RUNNERS.switch_scope_and_registry(None) as runners:
            return runners.get(kind)
    return kind


def _seed_is_known(cfg: Config) -> bool:
    """Whether this process knows its seed without the other processes of a distributed run."""
    randomness = cfg.get('randomness', {})
    is_common = randomness.get('seed') is not None and not randomness.get('diff_rank_seed')
    return cfg.launcher == 'none' or is_common


def _taking(built: SeededModel, kind: type[Runner]) -> type[Runner]:
    """Derive a runner class that takes a model instead of building one.

    Everything that is random stays what it would be if the runner had built the model.
    """

    class ModelTakingRunner(kind):
        def set_randomness(self, seed: int | None, **options: Any) -> None:
            super().set_randomness(built.seed if seed is None else seed, **options)

        def build_model(self, model: dict) -> nn.Module:
            built.random_state.restore()
            return built.model

    return ModelTakingRunner
