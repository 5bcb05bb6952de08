"""The golden vectors in data/golden, produced by the released NAT and DiNAT code, and their inputs."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parents[1] / 'data/golden'

_spec = importlib.util.spec_from_file_location('golden_fill', FOLDER / 'fill.py')
fill = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fill)

_cases = json.loads((FOLDER / 'cases.json').read_text())
OPERATOR_CASES = [case for case in _cases if 'spatial' in case]
MODEL_CASES = [case for case in _cases if 'type' in case]


def expected(case: dict) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f'{case["name"]}.npz') as arrays:
        return dict(arrays)


def drawn(case: dict, name: str, shape: tuple, scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(fill.array(f'{case["name"]}.{name}', shape, scale))


def operator_inputs(case: dict) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Query, key, value and, if the case has one, the bias; and the gradient of the output."""
    shape = (case['batch'], *case['spatial'], case['heads'], case['head_dim'])
    inputs = [drawn(case, name, shape) for name in ('query', 'key', 'value')]
    if case['rpb']:
        rpb_shape = (case['heads'], *(2 * k - 1 for k in case['kernel_size']))
        inputs.append(drawn(case, 'rpb', rpb_shape, 0.5))
    return [tensor.requires_grad_() for tensor in inputs], drawn(case, 'grad', shape)


def fill_parameters(model: torch.nn.Module) -> None:
    """Give every parameter the value that the golden model had."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(fill.parameter(name, parameter.shape)))


def relative_error(actual: torch.Tensor, wanted: np.ndarray | torch.Tensor) -> float:
    """Largest difference over the largest magnitude that is wanted."""
    wanted = torch.as_tensor(wanted).double()
    assert actual.shape == wanted.shape, (actual.shape, wanted.shape)
    return float((actual.detach().double() - wanted).abs().max() / wanted.abs().max())
