"""The rest of an epoch, and the random numbers' state in a checkpoint."""

import random

import numpy as np
import torch
from torch.utils.data import DataLoader

from mmnat.checkpoints.reading import read_checkpoint
from mmnat.launch.exact_resume import _Rest
from mmnat.random_state import RandomState


def draw():
    return random.random(), np.random.rand(), float(torch.rand(()))


def test_state_survives_a_checkpoint(tmp_path):
    state = RandomState()
    torch.save(state.state_dict(), tmp_path / 'state.pth')
    wanted = draw()
    assert draw() != wanted
    RandomState.from_state_dict(read_checkpoint(tmp_path / 'state.pth')).restore()
    assert draw() == wanted


class Noisy(torch.utils.data.Dataset):
    """Every item takes a random number, as augmentations do."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index + np.random.rand()


def test_the_rest_of_an_epoch_is_that_of_the_whole():
    loader = DataLoader(Noisy(), batch_size=1, shuffle=True)
    torch.manual_seed(1)
    np.random.seed(1)
    start, batches, states = RandomState(), [], []
    for batch in loader:
        batches.append(float(batch))
        torch.rand(())  # the training's own
        states.append(RandomState())
    for skipped in range(1, 6):
        draw()
        start.restore()
        rest = _Rest(loader, skipped, states[skipped - 1])
        assert len(rest) == 6 - skipped and rest.batch_size == 1
        assert [float(batch) for batch in rest] == batches[skipped:]
