"""Whether float32 may be computed with TF32, the format that tensor cores multiply."""

import torch
from torch import Tensor


def allows_tf32(query: Tensor) -> bool:
    """Whether the compiled operators may compute with TF32.

    They may for float32 on CUDA if torch's matrix products may (``torch.backends.cuda.matmul``), which is
    not so unless the user says it. csrc/cuda/tf32.cuh tells what they then compute.
    """
    return query.is_cuda and query.dtype == torch.float32 and _is_allowed_by_torch()


def _is_allowed_by_torch() -> bool:
    return torch.backends.cuda.matmul.fp32_precision == 'tf32'


# torch.compile cannot trace the setting, but compiles anew if it changes. See derivatives.py on this
# attribute.
_is_allowed_by_torch._dynamo_marked_constant = True  # type: ignore[attr-defined]
