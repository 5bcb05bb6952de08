"""Whether the operators may compute float32 with TF32: as torch's matrix products may."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from natten_ops import functional, na2d, precision
from natten_ops.functional import packed_neighborhood_attention

NAMES = ('na_forward', 'na_backward', 'na_packed_forward', 'na_packed_backward')


@pytest.fixture
def setting():
    """Torch's setting, which a test may change."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = 'ieee'
    yield matmul
    matmul.fp32_precision = before


@pytest.mark.parametrize(
    ('device', 'dtype', 'wanted'),
    [
        ('cuda', torch.float32, True),
        ('cuda', torch.float64, False),
        ('cuda', torch.float16, False),
        ('cpu', torch.float32, False),
    ],
)
def test_float32_on_cuda_follows_torch(setting, device, dtype, wanted):
    with FakeTensorMode():
        query = torch.empty(1, 8, 8, 2, 32, device=device, dtype=dtype)
    assert not precision.allows_tf32(query)
    setting.fp32_precision = 'tf32'
    assert precision.allows_tf32(query) == wanted


@pytest.mark.parametrize(
    'permit',
    ["torch.set_float32_matmul_precision('high')", 'torch.backends.cuda.matmul.allow_tf32 = True'],
)
def test_older_names_of_the_setting(permit):
    """In a program of its own: torch does not want older and newer names in one."""
    program = f"""if True:
        import torch
        from natten_ops import precision
        assert not precision._is_allowed_by_torch()
        {permit}
        assert precision._is_allowed_by_torch()
    """
    run = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


class Recorder(TorchDispatchMode):
    """Whether the operators that run may use TF32, by their names."""

    def __init__(self):
        super().__init__()
        self.allowed = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        schema = function._schema
        if schema.name.startswith('natten_ops::'):
            names = [argument.name for argument in schema.arguments]
            arguments = dict(zip(names, args, strict=False)) | (kwargs or {})
            self.allowed[schema.name.split('::')[1]] = arguments.get('allow_tf32', False)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize('allowed', [False, True])
def test_all_operators_are_told(monkeypatch, allowed):
    monkeypatch.setattr(functional, 'allows_tf32', lambda query: allowed)
    query = torch.randn(1, 5, 5, 2, 8, requires_grad=True)
    qkv = torch.randn(1, 5, 5, 3, 2, 8, requires_grad=True)
    with Recorder() as recorder:
        na2d(query, query, query, 3).sum().backward()
        packed_neighborhood_attention(qkv, (3, 3), (1, 1), 1.0, None, 0.0).sum().backward()
    assert recorder.allowed == dict.fromkeys(NAMES, allowed)


def test_compiled_code_follows_torch(setting):
    """It is compiled again if the setting changes."""

    @torch.compile(fullgraph=True, backend='eager')
    def compute(x):
        return x + 1 if precision._is_allowed_by_torch() else x - 1

    x = torch.zeros(())
    assert compute(x) == -1
    setting.fp32_precision = 'tf32'
    assert compute(x) == 1
    setting.fp32_precision = 'ieee'
    assert compute(x) == -1
