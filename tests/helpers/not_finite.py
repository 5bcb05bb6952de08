"""Where NaN and infinity end up: the operator beside the reference."""

import itertools
import math

import torch
from attention import NAMES, attend, gradients, reference

#: What gets the number that is not finite: a token of one of the tensors, or an entry of the bias.
PLACES = ('query', 'key', 'value', 'grad', 'rpb')


def _border(sizes):
    """The border and the middle of a rectangle."""
    places = itertools.product(*map(range, sizes))
    border = [p for p in places if any(i in (0, size - 1) for i, size in zip(p, sizes, strict=True))]
    return [*border, tuple(size // 2 for size in sizes)]


def patterns(number, place, spatial, kernel_size, dilation, device='cpu', dtype=torch.float32, head_dim=8):
    """Name, and where the operator's and the reference's result is not finite, for output and gradients.

    Heads do not touch each other: each has the number at another place of the border.
    """
    generator = torch.Generator().manual_seed(0)
    bias = (2 * kernel_size - 1,) * 2
    places = _border(bias if place == 'rpb' else spatial)
    shape = (1, *spatial, len(places), head_dim)
    tensors = {name: torch.randn(shape, generator=generator) for name in ('query', 'key', 'value', 'grad')}
    tensors['rpb'] = torch.randn(len(places), *bias, generator=generator)
    for head, (row, column) in enumerate(places):
        if place == 'rpb':
            tensors['rpb'][head, row, column] = number
        else:
            tensors[place][0, row, column, head, 1] = number
    tensors = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
    grad = tensors.pop('grad')
    inputs = [tensors[name].requires_grad_() for name in NAMES]
    settings = ((kernel_size,) * 2, (dilation,) * 2)
    actual, wanted = (gradients(function, inputs, grad, *settings) for function in (attend, reference))
    for name, a, w in zip(('output', *NAMES), actual, wanted, strict=True):
        if math.isnan(number) or name == 'output':
            yield f'{name}: NaN', a.isnan(), w.isnan()
        yield f'{name}: not finite', ~a.isfinite(), ~w.isfinite()
