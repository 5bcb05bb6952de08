"""What all tests here have in common: they need a GPU, and are skipped where there is none."""

import pytest
import torch

from natten_ops import dispatch


def pytest_runtest_setup(item):
    if not torch.cuda.is_available():
        pytest.skip('torch finds no CUDA device')
    if dispatch.CUDA_PROBLEM:
        pytest.fail(f'the kernels would not be tested: {dispatch.CUDA_PROBLEM}')
