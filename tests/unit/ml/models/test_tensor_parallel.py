"""Tensor parallelism: two processes compute what one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import ml.models.loading
from ml.errors import InputError, ModelLoadError
from ml.models.base import LanguageModel
from ml.models.follower import follow
from tests.fixtures.runners import Texts

pytest.importorskip("accelerate")
pytestmark = pytest.mark.processes

SEQUENCES = [[1, 2, 3, 4], [5, 6, 7], [8] * 20, [1, 2, 9]]
LOGIT_COUNTS = [2, 1, 3, 1]


@pytest.fixture(scope="module")
def divided(tiny_llama: Path) -> Iterator[LanguageModel]:
    """tiny-llama over this process and another one."""
    model: Any = ml.models.loading.load(str(tiny_llama), device="cpu", threads=1, tensor_parallel=2)
    yield model
    model.close()


@pytest.fixture
def whole(tiny_llama: Path, load_model: Callable[[Path], LanguageModel]) -> LanguageModel:
    return load_model(tiny_llama)


def assert_close(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> None:
    for one, other in zip(some, others, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


def test_it_is_the_same_model(divided: LanguageModel, whole: LanguageModel) -> None:
    assert divided.info == whole.info
    assert divided.in_bfloat16() == ()
    assert divided.sequence_bytes == whole.sequence_bytes


def test_logits(divided: LanguageModel, whole: LanguageModel) -> None:
    assert_close(divided.logits(SEQUENCES, LOGIT_COUNTS), whole.logits(SEQUENCES, LOGIT_COUNTS))
    assert_close(divided.logits(SEQUENCES), whole.logits(SEQUENCES))


def test_packed_logits_also_where_the_reader_leaves_early(divided: LanguageModel, whole: LanguageModel) -> None:
    def streamed(model: LanguageModel, batches: int) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        stream = model.stream_logits(SEQUENCES, LOGIT_COUNTS, max_tokens=8, max_logits=3)
        for batch, _ in zip(stream, range(batches), strict=False):
            found.update(zip(batch.indices, batch.logits, strict=True))
        return [found[i] for i in sorted(found)]

    assert_close(streamed(divided, 1), streamed(whole, 1))
    assert_close(streamed(divided, 99), streamed(whole, 99))


def test_log_probabilities_and_greedy_generation(divided: LanguageModel, whole: LanguageModel) -> None:
    def asked(model: LanguageModel) -> torch.Tensor:
        found = torch.zeros(len(SEQUENCES), 5, dtype=torch.float64)
        for batch in model.stream_log_probabilities(SEQUENCES, [(5, 6, 7), (5, 9)], max_tokens=8):
            found[batch.indices] = torch.from_numpy(batch.rows)
        return found

    assert_close([asked(divided)], [asked(whole)])
    first, second = (list(model.generate_greedily(SEQUENCES[0], 5)) for model in (divided, whole))
    assert first == second


def test_attention_has_all_heads(divided: LanguageModel, whole: LanguageModel) -> None:
    def attention(model: LanguageModel, layers: Sequence[int]) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        model.attention([1, 2, 3, 4, 5], layers, [4, 2], lambda _, weights: found.append(weights.clone()))
        return found

    assert_close(attention(divided, [0]), attention(whole, [0]))
    assert_close(attention(divided, [0, 1]), attention(whole, [0, 1]))


def test_texts_join_and_leave(divided: LanguageModel, whole: LanguageModel) -> None:
    def grown(model: LanguageModel) -> list[torch.Tensor]:
        decoder = Texts(model.runner(1 << 20))
        found = [decoder.start([1, 2, 3]), decoder.start([4, 5])]
        found += decoder.step([7, 8])
        decoder.leave(0)
        found += decoder.step([9])
        return found

    expected = grown(whole)
    for _ in range(2):  # the second decoder meets one that is gone
        assert_close(grown(divided), expected)


@pytest.mark.parametrize(
    ("folder", "ranks", "said"),
    [("tiny_gpt2", 2, "no plan .* a gpt2; spread"), ("tiny_llama", 3, "2 heads"), ("tiny_lstm", 2, "one device")],
)
def test_models_that_cannot_be_divided(folder: str, ranks: int, said: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(ModelLoadError, match=said):
        ml.models.loading.load(str(request.getfixturevalue(folder)), device="cpu", tensor_parallel=ranks)


def test_a_rank_outlives_what_the_caller_got_wrong() -> None:
    class Picky:
        def __init__(self) -> None:
            self.made: list[Any] = []

        def logits(self, sequences: Any, logit_counts: Any) -> None:
            self.made.append(sequences)
            if not sequences:
                raise InputError("prompts", "there is none")

    model = Picky()
    follow(model, iter([["logits", [], None], ["logits", [[1]], None]]))
    assert model.made == [[], [[1]]]


def test_spread_over_gpus_it_lies_on_the_cpu_where_there_is_none(tiny_llama: Path, whole: LanguageModel) -> None:
    if torch.cuda.is_available():
        pytest.skip("has GPUs")
    spread = ml.models.loading.load(str(tiny_llama), device="balanced", threads=1)
    assert spread.info.device == "cpu"
    assert_close(spread.logits(SEQUENCES, LOGIT_COUNTS), whole.logits(SEQUENCES, LOGIT_COUNTS))
