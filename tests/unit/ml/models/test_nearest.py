"""The tokens that are nearest to a word, on embeddings whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ml.models.internals import nearest
from ml.models.internals.nearest import nearest_tokens

CIRCLE = 12


def circle(scale: float = 1.0, away: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Embedding:
    """Tokens around a circle like the hours of a clock, which lies `away` from the origin."""
    angles = torch.arange(CIRCLE) * (2 * math.pi / CIRCLE)
    rows = scale * torch.stack([angles.cos(), angles.sin()], dim=1) + away
    return nn.Embedding(CIRCLE, 2, _weight=rows.to(dtype))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("away", [0.0, 30.0])
def test_neighbours_as_seen_from_the_mean_of_all(scale, away):
    found = nearest_tokens(circle(scale, away * scale), [[0], [5]], 3)
    assert [(row[0], {*row[1:]}) for row in found.ids.tolist()] == [(0, {1, 11}), (5, {4, 6})]


def test_cosines_are_those_of_the_angles():
    found = nearest_tokens(circle(away=30.0), [[0]], 5)
    assert found.cosines[0] == pytest.approx([1.0, *[math.cos(math.pi / 6)] * 2, 0.5, 0.5], abs=1e-5)


def test_a_word_of_several_tokens_lies_between_them():
    assert nearest_tokens(circle(), [[1, 3]], 1).ids.tolist() == [[2]]


def test_there_are_no_more_tokens_than_all():
    assert nearest_tokens(circle(), [[0]], 100).ids.shape == (1, CIRCLE)


def test_parts_of_the_work_change_nothing(monkeypatch):
    words = [[token] for token in range(CIRCLE)]
    generator = torch.Generator().manual_seed(0)
    embedding = nn.Embedding(40, 8, _weight=torch.randn(40, 8, generator=generator))
    whole = nearest_tokens(embedding, words, 5).ids.tolist()
    monkeypatch.setattr(nearest, "_ROWS", 7)
    monkeypatch.setattr(nearest, "_WORDS", 5)
    assert nearest_tokens(nn.Embedding.from_pretrained(embedding.weight), words, 5).ids.tolist() == whole


def test_weights_of_lower_precision():
    assert nearest_tokens(circle(dtype=torch.bfloat16), [[0]], 1).ids.tolist() == [[0]]


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_lstm"])
def test_real_models_name_a_word_itself_first(folder, request, load_model):
    model = load_model(request.getfixturevalue(folder))
    ids = [3, 7, 11]
    assert model.nearest_tokens([[each] for each in ids], 2).ids[:, 0].tolist() == ids
