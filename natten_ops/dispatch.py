"""The compiled operators ``torch.ops.natten_ops.na_forward`` and ``na_backward``, and what they cover.

Loads the CPU library, which also declares the operators (csrc/torch/schema.cpp), and the CUDA library if
torch has CUDA. Attaches the parts that are written in Python, each in a file of its own: shapes and
operation counts, derivatives, autocast and vmap.
"""

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import autocast, derivatives, shapes


def _load_cpu_library() -> str:
    """Load the library with the CPU kernels; returns '', or warns and returns why it cannot be used."""
    library = Path(__file__).with_name('_C.abi3.so')
    problem = ''
    if not library.exists():
        problem = f'the compiled library {library} does not exist'
    else:
        try:
            torch.ops.load_library(library)
        except OSError as error:
            problem = f'the compiled library does not load ({error})'
    if problem:
        warnings.warn(
            f'{problem}; natten_ops falls back to its PyTorch reference, which is much slower and needs'
            ' more memory; to build the library, run `pip install .` in the source of mmnat',
            stacklevel=2,
        )
    return problem


def _load_cuda_library() -> str:
    """Load the library with the CUDA kernels if torch has CUDA; returns '', or why it cannot be used."""
    if torch.version.cuda is None:
        return 'this torch was built without CUDA'
    remedy = 'run `NATTEN_OPS_CUDA=1 pip install .` in the source of mmnat, with nvcc 12.4 or newer on PATH'
    library = Path(__file__).with_name('_CUDA.abi3.so')
    if not library.exists():
        return f'natten_ops was built without CUDA; {remedy}'
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f'the CUDA library of natten_ops does not load ({error}); {remedy}'
    return ''


def _refuse_cuda(*_: Any) -> None:
    """The operators on CUDA tensors if there is no CUDA library."""
    raise RuntimeError(f'natten_ops: there is no kernel for CUDA tensors: {CUDA_PROBLEM}')


#: Why there are no compiled kernels for the CPU; empty if there are.
CPU_PROBLEM = _load_cpu_library()
#: Why there are no compiled kernels for CUDA; empty if there are.
CUDA_PROBLEM = 'the compiled library of the CPU does not load' if CPU_PROBLEM else _load_cuda_library()

if not CPU_PROBLEM:
    shapes.register()
    derivatives.register()
    _LIBRARY = torch.library.Library('natten_ops', 'IMPL')  # keeps what is attached alive
    autocast.register(_LIBRARY)
    if CUDA_PROBLEM:
        for _name in ('na_forward', 'na_backward', 'na_packed_forward', 'na_packed_backward'):
            _LIBRARY.impl(_name, _refuse_cuda, 'CUDA')

# kScalarMaxHeadDim in csrc/cuda/kernels.h
_CUDA_MAX_HEAD_DIM = 256


def covers(
    query: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    is_causal: Sequence[bool],
    padding: str = 'shifted',
    dropout: float = 0.0,
) -> bool:
    """Whether the compiled operator computes this; otherwise the PyTorch reference does.

    The compiled operator does if all of these hold:

    - the tensors are on the CPU, or on CUDA and natten_ops was built with CUDA (otherwise a warning says
      once that the reference computes);
    - head_dim is at most 256 on CUDA;
    - there are one or two axes (``na3d`` has two if an axis has kernel_size 1: it makes that axis part of
      the batch);
    - stride is 1 and is_causal False on every axis;
    - padding is shifted, or it is valid and ``kernel_size * dilation`` fits every axis (the result is then
      the shifted one, cropped);
    - there is no dropout;
    - the compiled operator can be differentiated by the active autograd: not forward mode (torch.func.jvp,
      jacfwd, hessian), and not torch.func inside of torch.compile. This function does not check it; see
      :func:`natten_ops.derivatives.supports_active_autograd`.

    kernel_size, dilation, scale, rpb, dtype, number of heads and the tensors' strides do not matter, and
    head_dim does not matter on the CPU.
    An axis with kernel_size 1 counts as not causal and dilation 1, because its window is the token itself.

    Args:
        query: the query, for its device, lengths and head_dim.
        kernel_size: one per axis.
        stride: one per axis.
        dilation: one per axis.
        is_causal: one per axis.
        padding: one of :data:`natten_ops.windows.PADDINGS`.
        dropout: probability of dropping an attention weight.
    """
    if not (
        not CPU_PROBLEM
        and len(kernel_size) <= 2
        and all(s == 1 for s in stride)
        and not any(is_causal)
        and (padding == 'shifted' or (padding == 'valid' and _fits(query, kernel_size, dilation)))
        and dropout == 0
    ):
        return False
    if query.device.type in ('cpu', 'meta'):
        return True
    problem = CUDA_PROBLEM if query.device.type == 'cuda' else 'kernels are for the CPU and CUDA'
    if problem and not torch.compiler.is_compiling():
        _warn_of_reference(query.device.type, problem)
    return not problem and query.shape[-1] <= _CUDA_MAX_HEAD_DIM


def _fits(query: Tensor, kernel_size: Sequence[int], dilation: Sequence[int]) -> bool:
    return all(k * d <= n for k, d, n in zip(kernel_size, dilation, query.shape[1:-2], strict=True))


@functools.cache
def _warn_of_reference(device_type: str, problem: str) -> None:
    warnings.warn(
        f'natten_ops has no kernel for {device_type} tensors: {problem}. The PyTorch reference computes'
        ' instead; it is slow and gathers every window in memory',
        stacklevel=2,
    )
