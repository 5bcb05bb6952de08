"""The modules NeighborhoodAttention1D, 2D and 3D."""

import pytest
import torch

from natten_ops import NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D, na3d

MODULES = {1: NeighborhoodAttention1D, 2: NeighborhoodAttention2D, 3: NeighborhoodAttention3D}
PARAMETERS = ['proj.bias', 'proj.weight', 'qkv.bias', 'qkv.weight', 'rpb']


def test_small_inputs_are_padded_as_published():
    attention = NeighborhoodAttention2D(8, 2, 5, 2).eval()
    x = torch.randn(1, 7, 12, 8)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 3))
    assert torch.allclose(attention(x), attention(padded)[:, :7], atol=1e-6)
    assert sorted(dict(attention.named_parameters())) == PARAMETERS


def test_three_axes():
    attention = NeighborhoodAttention3D(8, 2, (1, 3, 3), (1, 2, 1))
    assert attention.rpb.shape == (2, 1, 5, 5)
    assert sorted(dict(attention.named_parameters())) == PARAMETERS
    x = torch.randn(2, 4, 7, 5, 8)
    query, key, value = attention.qkv(x).unflatten(-1, (3, 2, 4)).unbind(-3)
    wanted = na3d(query, key, value, (1, 3, 3), dilation=(1, 2, 1), rpb=attention.rpb)
    assert torch.allclose(attention(x), attention.proj(wanted.flatten(-2)), atol=1e-6)
    small = torch.randn(1, 2, 5, 2, 8)  # padded to 6 and 3
    padded = torch.nn.functional.pad(small, (0, 0, 0, 1, 0, 1))
    assert torch.allclose(attention(small), attention(padded)[:, :, :5, :2], atol=1e-6)
    whole = NeighborhoodAttention3D(8, 2, 3)(x)
    whole.sum().backward()
    assert whole.shape == x.shape


def test_one_axis_and_dropout():
    attention = NeighborhoodAttention1D(8, 2, 5, 2, attn_drop=0.5)
    x = torch.randn(2, 4, 8)
    assert attention(x).shape == x.shape
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


@pytest.mark.parametrize('rank', [1, 2, 3])
def test_config_builds_modules(rank):
    from mmengine.registry import MODELS

    config = dict(type=f'NeighborhoodAttention{rank}D', dim=8, num_heads=2, kernel_size=3)
    module = MODELS.build(config)
    assert type(module) is MODULES[rank] and module.rpb.shape == (2, *(5,) * rank)
    module = MODELS.build(config | dict(rel_pos_bias=False))
    assert type(module) is MODULES[rank] and module.rpb is None


def test_bad_module():
    with pytest.raises(ValueError, match='positive multiple of num_heads'):
        NeighborhoodAttention2D(10, 4, 3)
    with pytest.raises(ValueError, match='kernel_size must be an int or a tuple of 3 ints'):
        NeighborhoodAttention3D(8, 2, (3, 3))
    with pytest.raises(ValueError, match=r'attn_drop must be a probability, 0 to 1, got 1\.5'):
        NeighborhoodAttention2D(8, 2, 3, attn_drop=1.5)
    with pytest.raises(ValueError, match='4-dimensional input'):
        NeighborhoodAttention2D(8, 2, 3)(torch.randn(4, 4, 8))
    with pytest.raises(ValueError, match=r'with dim 8, got shape \(1, 4, 4, 9\)'):
        NeighborhoodAttention2D(8, 2, 3)(torch.randn(1, 4, 4, 9))
