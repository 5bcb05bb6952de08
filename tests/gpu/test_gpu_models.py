"""A training step of a backbone in mixed precision. Needs mmengine."""

import pytest
import torch

pytest.importorskip('mmengine')

from mmnat.models import NAT

pytestmark = pytest.mark.gpu


def loss_of(model, images):
    return sum(output.float().square().mean() for output in model(images))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_autocast_training_step(dtype):
    torch.manual_seed(0)
    model = NAT(arch='mini', drop_path_rate=0.0).cuda().train()
    images = torch.randn(2, 3, 224, 288, device='cuda')
    exact = float(loss_of(model, images))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler('cuda', enabled=dtype == torch.float16)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        with torch.autocast('cuda', dtype):
            loss = loss_of(model, images)
        scaler.scale(loss).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss))
    assert losses[0] == pytest.approx(exact, rel=2e-2)
    assert losses[-1] < losses[0]
    assert all(parameter.isfinite().all() for parameter in model.parameters())
