"""Gradients at the keys: what a small change of all of a token's scores does to an objective."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ml.models.huggingface import HuggingFaceModel
from ml.models.internals import key_gradients as module_under_test
from ml.models.internals.attention_capture import prepare
from ml.models.internals.gradients import DenseForward
from ml.models.internals.objective import of_logits
from ml.models.loading import load
from ml.models.objective import Objective, Transform
from ml.models.verification.verify import verify
from tests.unit.ml.models.test_huggingface import KINDS

SEQUENCE = [3, 14, 15, 92, 65, 35, 89, 79, 7, 21]
OBJECTIVE = Objective(((7, 21, 5),), (1.0,))
"""What follows the first eight tokens; its last token is not read."""
STEP = 0.05


class _Shifted(DenseForward):
    """A sequence whose scores are shifted by a number of each key, after whatever else is done to them."""

    shifts = torch.zeros(len(SEQUENCE))

    def _visible(self, span, queries, keys):
        return torch.where(super()._visible(span, queries, keys), self.shifts[:keys], float("-inf"))


def of_kind(kind: str) -> HuggingFaceModel:
    torch.manual_seed(1)
    module = AutoModelForCausalLM.from_config(KINDS[kind][0]).eval()
    prepare(module)
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.15)
    info = type("Info", (), {"context_length": 64, "name": kind, "heads": 4})
    return HuggingFaceModel(module, None, info, None, ways=verify(module, 64, "model"))


def shifted(model: HuggingFaceModel, shifts: Tensor) -> float:
    value, positions = of_logits(OBJECTIVE)
    run = _Shifted(model.embed(SEQUENCE)[None], positions, (), model._span_of)
    run.shifts = shifts
    with torch.no_grad():
        return float(value(run.forward(model.module).double())[0])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "capped scores"])
def test_they_are_what_small_shifts_of_the_scores_do(kind: str) -> None:
    model = of_kind(kind)
    found = model.key_gradients(SEQUENCE, OBJECTIVE)
    if found is None:
        assert len(SEQUENCE) > model.ways.differentiated
        return
    changes = [(shifted(model, step) - shifted(model, -step)) / (2 * STEP) for step in STEP * torch.eye(len(SEQUENCE))]
    assert np.abs(found).max() > 1e-3
    np.testing.assert_allclose(found[0], changes, atol=1e-3 * np.abs(found).max() + 1e-5)


@pytest.mark.parametrize("transform", Transform)
def test_each_row_has_its_own(transform: Transform) -> None:
    model = of_kind("sliding window")
    whole = replace(OBJECTIVE, transform=transform, rows=((0, 2), (1,)))
    found = model.key_gradients(SEQUENCE, whole, [0, 1, 2])
    assert found is not None
    for number, each in enumerate(found):
        alone = model.key_gradients(SEQUENCE, whole, [number])
        assert alone is not None
        np.testing.assert_allclose(each, alone[0], rtol=1e-5, atol=1e-9)
    assert not np.allclose(found[1], found[2])
    if transform is Transform.NONE:
        np.testing.assert_allclose(found[1] + found[2], found[0], atol=1e-5 * np.abs(found).max())


def test_scores_with_a_cap_have_them_too() -> None:
    found = of_kind("capped scores").key_gradients(SEQUENCE, OBJECTIVE)
    assert found is not None
    assert np.isfinite(found).all()
    assert found.any()


def test_a_model_without_attention_has_none() -> None:
    lstm = load(str(Path(__file__).parents[4] / "ml/pretrained/lstm"), device="cpu")
    assert lstm.key_gradients(SEQUENCE, OBJECTIVE) is None


def test_there_are_none_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_kind("sliding window")
    monkeypatch.setattr(module_under_test, "available_bytes", lambda _: 100_000)
    assert model.key_gradients(SEQUENCE, OBJECTIVE) is None
    monkeypatch.setattr(module_under_test, "available_bytes", lambda _: 100_000_000)
    assert model.key_gradients(SEQUENCE, OBJECTIVE) is not None
