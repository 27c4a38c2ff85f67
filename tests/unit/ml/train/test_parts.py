"""The loss, the optimizer, the schedules, the mean of weights and the checkpoint, each against its definition."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ml.train import loss as losses
from ml.train.average import WeightAverage
from ml.train.checkpoint import load_checkpoint, save_checkpoint
from ml.train.muon import Muon, orthogonalized
from ml.train.schedule import Schedule, Shape


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fused_loss_is_cross_entropy(with_bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 70 * 500)  # chunks of 70 rows, the last one smaller
    torch.manual_seed(0)
    hidden = torch.randn(200, 24, dtype=dtype, requires_grad=True)
    weight = torch.randn(500, 24, dtype=dtype, requires_grad=True)
    bias = torch.randn(500, dtype=dtype, requires_grad=True) if with_bias else None
    targets = torch.randint(500, (200,))
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]

    found = losses.cross_entropy(hidden, weight, bias, targets)
    expected = F.cross_entropy(F.linear(hidden, weight, bias), targets)
    torch.testing.assert_close(found, expected)
    # Twice the loss, so that the gradient from above is seen to matter.
    for ours, theirs in zip(
        torch.autograd.grad(2 * found, inputs), torch.autograd.grad(2 * expected, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        total = losses.cross_entropy_sum(hidden, weight, bias, targets)
    assert float(total) / 200 == pytest.approx(float(expected.detach()), rel=1e-6)


def test_the_sampled_loss_is_exact_with_all_words_and_close_with_some() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(50, 16), torch.randn(2000, 16) * 0.3, torch.randn(2000)
    targets = torch.randint(2000, (50,))
    exact = float(losses.cross_entropy(hidden, weight, bias, targets))
    everything = losses.sampled_cross_entropy(hidden, weight, bias, targets, frequent=2000, samples=1)
    assert float(everything) == pytest.approx(exact, rel=1e-5)
    draws = [
        float(losses.sampled_cross_entropy(hidden, weight, bias, targets, frequent=200, samples=200)) for _ in range(40)
    ]
    assert sum(draws) / len(draws) == pytest.approx(exact, abs=0.05)


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 16, 40), (3, 40, 16)):
        values = torch.linalg.svdvals(orthogonalized(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.3


def test_muon_solves_a_least_squares_problem() -> None:
    torch.manual_seed(0)
    wanted, weight = torch.randn(8, 8), nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.1)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        optimizer.zero_grad()
        ((weight - wanted) ** 2).sum().backward()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (Shape.CONSTANT, [0.5, 1.0, 1.0, 1.0, 1.0]),
        (Shape.PLATEAU, [0.5, 1.0, 1.0, 1.0, 1.0]),
        (Shape.TRAPEZOID, [0.5, 1.0, 1.0, 0.5, 0.0]),
        (Shape.COSINE, [0.5, 1.0, 0.5, 0.5 * (1 + math.cos(math.pi * 0.75)), 0.0]),
    ],
)
def test_schedules(shape: Shape, expected: list[float]) -> None:
    schedule = Schedule(shape, steps=100, warmup=2, decay=0.5)
    factors = [schedule.factor(step) for step in (0, 1, 50, 75, 100)]
    assert factors == pytest.approx(expected)


def test_the_mean_of_weights_is_applied_and_taken_back() -> None:
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, decay=1.0)
    for value in (1.0, 2.0, 6.0):
        nn.init.constant_(module.weight, value)
        average.update()
    with average.applied():
        assert float(module.weight.detach()) == pytest.approx(3.0)
    assert float(module.weight.detach()) == 6.0
    forgetful = WeightAverage(module, decay=0.5)
    for value in (100.0, *[1.0] * 30, 5.0):
        nn.init.constant_(module.weight, value)
        forgetful.update()
    with forgetful.applied():
        assert float(module.weight.detach()) == pytest.approx((1 + 5) / 2, abs=0.01)


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    state = {
        "tied": [shared, shared],
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp": shared.T}}, "rates": [0.1, None, True]},
        "name": "x",
    }
    path = tmp_path / "deep" / "checkpoint.safetensors"
    save_checkpoint(state, path)
    found = load_checkpoint(path)
    assert torch.equal(found["tied"][1], shared)
    assert torch.equal(found["optimizer"]["state"][0]["exp"], shared.T)
    assert found["optimizer"]["rates"] == [0.1, None, True]
    assert found["name"] == "x"
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no scratch file is left"
