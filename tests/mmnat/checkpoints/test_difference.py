"""Differences between state dicts, also if modules rename keys while they load them."""

import pytest
import torch
from torch import nn

from mmnat.checkpoints.difference import compare, load


class Renaming(nn.Module):
    """Like mmdet's heads: takes ``kernel`` of older checkpoints as ``weight``."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3))

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if f'{prefix}kernel' in state_dict:
            state_dict[f'{prefix}weight'] = state_dict.pop(f'{prefix}kernel')
        super()._load_from_state_dict(state_dict, prefix, *rest)


def model():
    return nn.ModuleDict(dict(head=Renaming(), norm=nn.BatchNorm1d(2), linear=nn.Linear(2, 1)))


def test_compare():
    weights = dict(a=torch.zeros(2), b=torch.zeros(3), d=torch.zeros(1))
    with torch.device('meta'):
        expected = dict(c=torch.zeros(1), b=torch.zeros(3, 1), a=torch.zeros(2))
    difference = compare(weights, expected)
    assert difference.missing == ['c'] and difference.unexpected == ['d']
    assert difference.shapes == {'b': ((3,), (3, 1))}
    assert difference.shape_notes == ['b is (3,) in the file and (3, 1) in the model']


def test_load_whole():
    source, target = model(), model()
    nn.init.ones_(source['head'].weight)
    difference = load(target, source.state_dict())
    assert (difference.missing, difference.unexpected, difference.shapes) == ([], [], {})
    assert all(map(torch.equal, target.state_dict().values(), source.state_dict().values()))


@pytest.mark.parametrize('shape', [(2, 3), (3, 3)])
def test_load_sees_names_that_modules_rename(shape):
    target = model()
    weights = {
        'head.kernel': torch.ones(shape),
        'linear.weight': torch.ones(1, 2),
        'head.scale': torch.ones(1),
    }
    difference = load(target, weights)
    assert difference.unexpected == ['head.scale']
    assert 'linear.bias' in difference.missing and 'norm.weight' in difference.missing
    assert 'head.weight' not in difference.missing and 'linear.weight' not in difference.missing
    fits = shape == (2, 3)
    assert difference.shapes == ({} if fits else {'head.weight': ((3, 3), (2, 3))})
    assert target['head'].weight.eq(1).all() == fits
    assert target['linear'].weight.eq(1).all()


def test_load_leaves_no_hooks_and_keeps_the_weights():
    target = model()
    weights = {'head.kernel': torch.ones(5)}
    load(target, weights)
    assert list(weights) == ['head.kernel']
    assert not any(module._load_state_dict_pre_hooks for module in target.modules())
    with pytest.raises(RuntimeError, match='size mismatch'):
        target.load_state_dict(weights, strict=False)
