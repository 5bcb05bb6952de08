"""The compiled operators ``torch.ops.natten_ops.na_forward`` and ``na_backward``, and what they cover.

Loads the libraries: that of the CPU, whose C++ side declares the schemas (csrc/torch/schema.cpp), and that
of CUDA, where torch has CUDA. Attaches what is written in Python, one file each: shapes and operation
counts, derivatives, autocast and vmap.
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
    """Load the library with the CPU kernels; returns '', or why not after a warning that says it."""
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
    """Load the library with the CUDA kernels if torch has CUDA; returns '', or why not."""
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
    """The operators on CUDA tensors where no library has CUDA."""
    raise RuntimeError(f'natten_ops: there is no kernel for CUDA tensors: {CUDA_PROBLEM}')


#: Why there are no compiled kernels for the CPU; empty if there are.
CPU_PROBLEM = _load_cpu_library()
#: Why there are no compiled kernels for CUDA; empty if there are.
CUDA_PROBLEM = 'the compiled library of the CPU does not load' if CPU_PROBLEM else _load_cuda_library()

if not CPU_PROBLEM:
    shapes.register()
    derivatives.register()
    _LIBRARY = torch.library.Library('natten_ops', 'IMPL')  # what is attached lives as long as it does
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

    It does where all of these hold:

    - tensors on the CPU, or on CUDA where natten_ops was built with CUDA (otherwise a warning says once
      that the reference computes);
    - head_dim at most 256 on CUDA;
    - one or two axes (``na3d`` gets there where an axis has kernel_size 1, which it makes part of the
      batch);
    - stride 1 and not causal, on every axis;
    - padding shifted, or padding valid where ``kernel_size * dilation`` fits every axis (then it is the
      shifted result, cropped);
    - no dropout;
    - a differentiation that the compiled operator has: not forward mode (torch.func.jvp, jacfwd,
      hessian), and not torch.func's inside of torch.compile (see
      :func:`natten_ops.derivatives.reaches`).

    kernel_size, dilation, scale, rpb, dtype, number of heads and tensors' strides do not matter, and on the
    CPU head_dim neither.
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
        f'natten_ops has no kernel for {device_type} tensors: {problem}. Its PyTorch reference computes,'
        ' which is slow and gathers every window in memory',
        stacklevel=2,
    )
