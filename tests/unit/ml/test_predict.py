"""Predictions from logits, against the definitions."""

from __future__ import annotations

import math

import pytest
import torch

from ml import predict
from ml.errors import GlossError

LOGITS = torch.tensor([[2.0, 0.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(value / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def test_next_token() -> None:
    first, second = predict.next_token(LOGITS, [2, 4], [1.0, 0.5])
    expected = softmax([2.0, 0.0, -1.0, 1.0])
    assert first.ids == (0, 3)
    assert first.log_probabilities == pytest.approx([math.log(expected[0]), math.log(expected[3])], abs=1e-12)
    assert first.entropy == pytest.approx(-sum(p * math.log(p) for p in expected), abs=1e-12)
    assert sorted(second.ids) == [0, 1, 2, 3]
    assert second.entropy == pytest.approx(math.log(4), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.25, 3.0, 100.0])
def test_temperature_divides_the_logits(temperature: float) -> None:
    (found,) = predict.next_token(LOGITS[:1], [4], [temperature])
    expected = sorted(softmax(LOGITS[0].tolist(), temperature), reverse=True)
    assert [math.exp(value) for value in found.log_probabilities] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 5e-324])
def test_towards_temperature_zero_the_largest_logit_takes_all(temperature: float) -> None:
    (found,) = predict.next_token(LOGITS[:1], [4], [temperature])
    assert found.ids[0] == 0
    assert (found.log_probabilities[0], found.entropy) == (0.0, 0.0)


def test_words_that_cannot_come() -> None:
    (found,) = predict.next_token(torch.tensor([[0.0, float("-inf"), 0.0]]), [3], [1.0])
    assert found.log_probabilities == (math.log(0.5), math.log(0.5), -math.inf)
    assert found.entropy == pytest.approx(math.log(2))


def test_double_precision_keeps_small_probabilities() -> None:
    """In float32 the sum over a vocabulary of this size is off in the sixth digit."""
    logits = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0)) * 3
    (found,) = predict.next_token(logits, [1], [1.0])
    total = math.fsum(math.exp(value) for value in logits[0].tolist())
    assert found.log_probabilities[0] == pytest.approx(float(logits.max()) - math.log(total), abs=1e-12)


def test_score() -> None:
    found = predict.score(LOGITS, [3, 2])
    assert found.log_probabilities == pytest.approx([math.log(softmax(LOGITS[0].tolist())[3]), math.log(0.25)])
    assert found.ranks == (2, 1), "equals share the better rank"


@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("rows", [1, 64, 65, 200])
def test_rows_of_a_long_text_are_scored_as_each_alone(rows: int, top_k: int) -> None:
    logits = torch.randn(rows, 50, generator=torch.Generator().manual_seed(rows))
    ids = [7 * row % 50 for row in range(rows)]
    found = predict.score(logits, ids, top_k)
    alone = [predict.score(logits[row : row + 1], [id_], top_k) for row, id_ in enumerate(ids)]
    assert found.log_probabilities == tuple(one.log_probabilities[0] for one in alone)
    assert found.ranks == tuple(one.ranks[0] for one in alone)
    assert found.predictions == tuple(prediction for one in alone for prediction in one.predictions)


def test_score_lists_alternatives_as_next_token_does() -> None:
    found = predict.score(LOGITS, [3, 2], top_k=3)
    assert (found.log_probabilities, found.ranks) == tuple(vars(predict.score(LOGITS, [3, 2])).values())[:2]
    for one, expected in zip(found.predictions, predict.next_token(LOGITS, [3, 3], [1.0, 1.0]), strict=True):
        assert one.ids == expected.ids
        assert one.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-12)
        assert one.entropy == pytest.approx(expected.entropy, abs=1e-12)


def test_a_damaged_model_says_so() -> None:
    broken = torch.tensor([[math.nan, 1.0]])
    with pytest.raises(GlossError, match="damaged"):
        predict.next_token(broken, [1], [1.0])
    with pytest.raises(GlossError, match="damaged"):
        predict.score(broken, [0])
