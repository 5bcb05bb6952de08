"""A training that is resumed goes on as if it had not been interrupted.

Checkpoints of mmengine lack three things for that: the random numbers' state, how much of an epoch is done,
and the gradients that are accumulated for the next update. If a checkpoint is of the middle of an epoch,
mmengine starts the epoch anew and counts on.
"""

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmnat.random_state import RandomState

_KEY = 'exact_resume'  # in checkpoints


class ExactResume(Hook):
    """Keeps random numbers' state, the place in the epoch and gradients in checkpoints, and restores them.

    With one process and ``num_workers=0`` or ``persistent_workers=False`` the result is then that of a
    training that was not interrupted. Otherwise the random numbers begin anew: those of other processes and
    of persistent workers are not in checkpoints.

    Validation leaves the training's random numbers as they are, because a resumed training may skip it.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None
        self._epoch_start: RandomState | None = None
        self._before_validation: RandomState | None = None
        self._after_first_batch: RandomState | None = None
        self._skipped = 0  # batches of the present epoch that were trained before the interruption
        self._batches = 0  # that are trained when the present iteration ends

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state."""
        now = self._before_validation or RandomState()
        start = self._epoch_start or now
        checkpoint[_KEY] = dict(
            now=now.state_dict(),
            epoch_start=start.state_dict(),
            batches=self._batches,
            batches_per_epoch=len(runner.train_dataloader) + self._skipped,
            gradients=_accumulated_gradients(runner),
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the state if the training is resumed."""
        if runner._resume:
            self._resumed = checkpoint.get(_KEY)

    def before_train_epoch(self, runner: Runner) -> None:
        """Take up the state of the checkpoint."""
        resumed, self._resumed, self._skipped = self._resumed, None, 0
        if resumed is None:
            self._epoch_start = RandomState()
            return
        _take_up_gradients(runner.model, resumed.get('gradients', {}))
        loop = runner.train_loop
        now, start = (_state_of_this_process(resumed[name]) for name in ('now', 'epoch_start'))
        batches = resumed['batches'] if isinstance(loop, EpochBasedTrainLoop) else 0
        if batches and resumed['batches_per_epoch'] == len(loop.dataloader):
            start.restore()
            self._epoch_start = start
            self._skipped = batches
            loop.dataloader = _Rest(loop.dataloader, batches, now)
            return
        now.restore()
        self._epoch_start = now
        if not isinstance(loop, EpochBasedTrainLoop):
            self._after_first_batch = now

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Count the epoch's batches."""
        self._batches = self._skipped + batch_idx + 1
        if self._after_first_batch:
            # A new iterator over the data has drawn a seed for its workers, which the old one did not.
            self._after_first_batch.restore_torch()
            self._after_first_batch = None

    def after_train_epoch(self, runner: Runner) -> None:
        """The next epoch begins with its first batch."""
        self._batches = 0
        if isinstance(runner.train_loop.dataloader, _Rest):
            runner.train_loop.dataloader = runner.train_loop.dataloader.whole
            self._skipped = 0

    def before_val(self, runner: Runner) -> None:
        """Remember the training's random numbers."""
        self._before_validation = RandomState()

    def after_val(self, runner: Runner) -> None:
        """Take them up again."""
        if self._before_validation:
            self._before_validation.restore()
        self._before_validation = None


def _state_of_this_process(state: dict[str, Any]) -> RandomState:
    """A checkpoint has those of the first process; in a distributed run all keep their own."""
    return RandomState.from_state_dict(state) if get_world_size() == 1 else RandomState()


def _accumulated_gradients(runner: Runner) -> dict[str, Tensor]:
    """Those of an update that needs more iterations, by parameter. There are none without accumulation."""
    wrapper = runner.optim_wrapper
    if getattr(wrapper, '_inner_count', 0) % getattr(wrapper, '_accumulative_counts', 1) == 0:
        return {}
    parameters = runner.model.named_parameters()
    return {name: parameter.grad for name, parameter in parameters if parameter.grad is not None}


def _take_up_gradients(model: nn.Module, gradients: dict[str, Tensor]) -> None:
    if get_world_size() > 1:  # they are those of the first process
        return
    for name, parameter in model.named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].to(parameter)


class _Rest:
    """A data loader without its first batches, which are loaded all the same: random numbers go on so.

    Args:
        whole: The data loader.
        skipped: How many batches.
        state: The random numbers after them.
    """

    def __init__(self, whole: DataLoader, skipped: int, state: RandomState) -> None:
        self.whole = whole
        self._skipped = skipped
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return len(self.whole) - self._skipped

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.whole)
        for _ in range(self._skipped):
            next(batches)
        self._state.restore()
        yield from batches
