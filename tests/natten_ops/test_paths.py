"""Which computes, the compiled operator or the reference: as listed in natten_ops.dispatch.covers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import natten_ops
from natten_ops import dispatch, na1d, na2d, na3d

FUNCTIONS = {1: na1d, 2: na2d, 3: na3d}


class _Calls(TorchDispatchMode):
    """Collects the tensors that the compiled forward is called with."""

    def __init__(self):
        super().__init__()
        self.arguments = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function == torch.ops.natten_ops.na_forward.default:
            self.arguments.append(args[:4])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ('rank', 'options', 'is_compiled'),
    [
        (1, dict(), True),
        (2, dict(), True),
        (2, dict(dilation=(3, 2), scale=0.1), True),
        (2, dict(kernel_size=(4, 2)), True),
        (2, dict(padding='valid'), True),
        (2, dict(padding='valid', dilation=(4, 1)), False),  # kernel_size * dilation exceeds the axis
        (2, dict(padding='zeros'), False),
        (2, dict(stride=(1, 2)), False),
        (2, dict(is_causal=(False, True)), False),
        (2, dict(kernel_size=(3, 1), is_causal=(False, True)), True),
        (2, dict(kernel_size=(1, 3), is_causal=(False, True)), False),
        (2, dict(kernel_size=(1, 1), is_causal=True, padding='zeros', dilation=100), True),
        (3, dict(), False),
        (3, dict(kernel_size=(1, 3, 3)), True),
        (3, dict(kernel_size=(3, 1, 3), is_causal=(False, True, False), padding='valid'), True),
        (3, dict(kernel_size=(3, 3, 1), dilation=2), True),
        (3, dict(kernel_size=(1, 3, 3), stride=(1, 2, 1)), False),
        (3, dict(kernel_size=1), True),
    ],
)  # fmt: skip
def test_covers(rank, options, is_compiled):
    query = torch.randn(1, *(9, 8, 7)[:rank], 2, 4)
    with _Calls() as calls:
        FUNCTIONS[rank](query, query, query, **(dict(kernel_size=3) | options))
    assert len(calls.arguments) == is_compiled


@pytest.mark.parametrize(
    ('rank', 'options'),
    [(1, dict()), (2, dict()), (2, dict(padding='valid')), (3, dict(kernel_size=(1, 3, 3)))],
)
def test_projections_are_not_copied(rank, options):
    """Query, key and value reach the kernel as the views of one projection that they are."""
    projection = torch.randn(2, *(9, 8, 7)[:rank], 3, 2, 4)
    inputs = projection.unbind(-3)
    with _Calls() as calls:
        FUNCTIONS[rank](*inputs, **(dict(kernel_size=3) | options))
    (arguments,) = calls.arguments
    for argument, tensor in zip(arguments, inputs, strict=False):
        assert argument.data_ptr() == tensor.data_ptr() and argument.stride(-2) == tensor.stride(-2)


@pytest.mark.parametrize('settings', [dict(dilation=5), dict(is_causal=True), dict(padding='zeros')])
def test_window_of_one_key_is_the_value(settings):
    query, key, value = torch.randn(3, 1, 9, 8, 2, 4)
    assert torch.equal(na2d(query, key, value, 1, **settings), value)


def on_gpu(head_dim=4):
    """What covers() looks at of a tensor, for there may be no GPU here."""
    return SimpleNamespace(device=torch.device('cuda'), shape=(1, 8, 8, 1, head_dim))


def test_devices_without_kernel_use_the_reference_with_one_warning(monkeypatch):
    monkeypatch.setattr(dispatch, 'CUDA_PROBLEM', 'natten_ops was built without CUDA; build it with')
    settings = ((3, 3), (1, 1), (1, 1), (False, False))
    dispatch._warn_of_reference.cache_clear()
    with pytest.warns(UserWarning, match='no kernel for cuda tensors: .* without CUDA; build') as warnings:
        assert [dispatch.covers(on_gpu(), *settings) for _ in range(2)] == [False, False]
    assert len(warnings) == 1


@pytest.mark.filterwarnings('error')
def test_covers_on_cuda(monkeypatch):
    monkeypatch.setattr(dispatch, 'CUDA_PROBLEM', '')
    settings = ((3, 3), (1, 1), (1, 1), (False, False))
    assert dispatch.covers(on_gpu(), *settings) and dispatch.covers(on_gpu(256), *settings)
    assert not dispatch.covers(on_gpu(257), *settings)
    assert not dispatch.covers(on_gpu(), *settings, padding='zeros')


def test_cuda_library_is_loaded_where_torch_has_cuda(monkeypatch, tmp_path):
    monkeypatch.setattr(dispatch, '__file__', str(tmp_path / 'dispatch.py'))
    monkeypatch.setattr(torch.version, 'cuda', None)
    assert dispatch._load_cuda_library() == 'this torch was built without CUDA'
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    assert 'natten_ops was built without CUDA; run `NATTEN_OPS_CUDA=1' in dispatch._load_cuda_library()
    (tmp_path / '_CUDA.abi3.so').write_text('no library')
    assert 'the CUDA library of natten_ops does not load' in dispatch._load_cuda_library()


@pytest.mark.skipif(not dispatch.CUDA_PROBLEM, reason='has CUDA kernels')
def test_direct_callers_without_cuda_kernels_are_told_why():
    query = torch.randn(1, 9, 2, 4)
    with (
        torch._C._IncludeDispatchKeyGuard(torch._C.DispatchKey.CUDA),  # as if query were there
        pytest.raises(
            RuntimeError, match=r'natten_ops: there is no kernel for CUDA tensors: .*without CUDA'
        ),
    ):
        torch.ops.natten_ops.na_forward(query, query, query, None, (3,), (1,), 1.0)


def test_without_library_the_reference_is_used_with_one_warning(tmp_path):
    source = Path(natten_ops.__file__).parent
    shutil.copytree(source, tmp_path / 'natten_ops', ignore=shutil.ignore_patterns('*.so', 'csrc'))
    program = (
        'import torch, natten_ops, natten_ops.dispatch\n'
        'assert natten_ops.dispatch.CPU_PROBLEM\n'
        'q = torch.randn(1, 5, 5, 1, 4, requires_grad=True)\n'
        'for _ in range(2): natten_ops.na2d(q, q, q, 3).sum().backward()\n'
        'with torch.autocast("cpu", torch.bfloat16): natten_ops.na2d(q, q, q, 3, padding="valid")\n'
        'print(natten_ops.__file__)\n'
    )
    environment = os.environ | dict(PYTHONPATH=str(tmp_path))
    run = subprocess.run(
        [sys.executable, '-c', program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(tmp_path))
    assert run.stderr.count('falls back to its PyTorch reference') == 1


@pytest.mark.parametrize('value', ['', 'avx512_vnni'])
def test_unknown_capabilities_choose_what_torch_chooses(value):
    program = (
        'import torch, natten_ops\n'
        'assert torch.ops.natten_ops.cpu_capability() == torch.backends.cpu.get_cpu_capability()\n'
    )
    folder = Path(natten_ops.__file__).parents[1]
    environment = os.environ | dict(ATEN_CPU_CAPABILITY=value, PYTHONPATH=str(folder))
    run = subprocess.run([sys.executable, '-c', program], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
