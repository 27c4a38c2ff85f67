"""oneDNN's products are those of torch, and gradients still flow."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ml.models import onednn


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "is_faster", lambda: True)


@pytest.mark.skipif(not onednn._AVAILABLE, reason="torch was built without oneDNN")
@pytest.mark.parametrize("layer", [nn.Linear(8, 24), nn.Linear(8, 5, bias=False), Conv1D(24, 8)])
@pytest.mark.usefixtures("faster")
def test_the_same_products(layer: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer)
    x = torch.randn(2, 3, 8)
    expected = model(x)
    parameters = list(model.parameters())
    assert onednn.use_onednn(model)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    model(x).sum().backward()
    assert model[0].weight.grad is not None


@pytest.mark.usefixtures("faster")
def test_half_precision_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4).to(torch.bfloat16))
    assert not onednn.use_onednn(model)
    assert type(model[0]) is nn.Linear


def test_what_is_slower_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "is_faster", lambda: False)
    model = nn.Sequential(nn.Linear(4, 4))
    assert not onednn.use_onednn(model)
    assert type(model[0]) is nn.Linear


def test_the_trial_answers() -> None:
    assert onednn.is_faster() in (True, False)
