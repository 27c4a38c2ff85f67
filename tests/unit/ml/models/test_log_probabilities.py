"""Log-probabilities of given continuations, as explainers ask for them: each logit position once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.models.base import Batch, LanguageModel, Prefix
from ml.models.internals.objective import of_logits
from ml.models.internals.open_model import OpenModel
from ml.models.log_probabilities import LogitsModel
from ml.models.objective import FloatArray, Objective, Transform, branches
from ml.models.protocol import ExplainableModel, ModelInfo, ModelInternals

PROMPTS = [[1, 2, 3, 4], [1, 2, 3, 5, 6], [7], [1, 2, 3, 4, 9, 8]]
CONTINUATIONS = {
    "one token": [(5,)],
    "several": [(5, 6, 7)],
    "two at one position": [(5,), (6,)],
    "one begins another": [(5, 6, 7), (5, 6), (5,)],
    "they part": [(5, 6, 7, 8), (5, 9, 7), (4,), (5, 6, 3, 3)],
    "the same twice": [(5, 6), (5, 6)],
}
tokens = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple)


class Counting(LogitsModel):
    """Logits that are a function of all tokens before, and a count of the positions that they were asked for."""

    vocabulary = 4

    def __init__(self) -> None:
        self.info = ModelInfo("counting", "0", "counting", 1, 1, 0, 1, self.vocabulary, 99, "cpu", "float32")
        self.asked: list[tuple[int, ...]] = []

    def row(self, ids: Sequence[int]) -> torch.Tensor:
        seed = int.from_bytes(bytes(each + 1 for each in ids), "big") % (2**63)
        return torch.randn(self.vocabulary, generator=torch.Generator().manual_seed(seed))

    def logits(
        self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int] | None = None
    ) -> list[torch.Tensor]:
        return [torch.stack([self.row(ids)]) for ids in sequences]

    def stream_logits(
        self,
        sequences: Sequence[Sequence[int]],
        logit_counts: Sequence[int],
        *,
        max_tokens: int,
        max_logits: int,
        prefix: Prefix | None = None,
    ) -> Iterator[Batch]:
        for first in range(0, len(sequences), 3):  # batches begin and end anywhere, and in any order
            some = list(range(len(sequences)))[::-1][first : first + 3]
            rows = []
            for index in some:
                ids, tail = sequences[index], logit_counts[index]
                before = [tuple(ids[:end]) for end in range(len(ids) - tail + 1, len(ids) + 1)]
                self.asked += before
                rows.append(torch.stack([self.row(each) for each in before]))
            yield Batch(some, rows, sum(len(sequences[index]) for index in some), 0)


def log_probabilities(
    model: ExplainableModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    max_tokens: int = 16,
    prefix: Prefix | None = None,
) -> FloatArray:
    """All of them, in the order of the prompts."""
    found = np.full((len(prompts), sum(map(len, continuations))), np.nan)
    seen: list[int] = []
    for batch in model.stream_log_probabilities(prompts, continuations, max_tokens=max_tokens, prefix=prefix):
        assert batch.rows.dtype == np.float64
        found[list(batch.indices)] = batch.rows
        seen += batch.indices
    assert sorted(seen) == list(range(len(prompts)))
    return found


def one_by_one(
    row: Callable[[Sequence[int]], torch.Tensor],
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> FloatArray:
    """The same by the definition, from the logits after a sequence."""

    def log_p(ids: Sequence[int], token: int) -> float:
        return float(row(ids).double().log_softmax(-1)[token])

    return np.array(
        [
            [log_p([*prompt, *each[:place]], each[place]) for each in continuations for place in range(len(each))]
            for prompt in prompts
        ]
    )


@given(st.lists(tokens, min_size=1, max_size=4), st.lists(tokens, min_size=1, max_size=5, unique=True))
@settings(max_examples=100)
def test_any_continuations_after_any_prompts(
    continuations: list[tuple[int, ...]], prompts: list[tuple[int, ...]]
) -> None:
    model = Counting()
    found = log_probabilities(model, prompts, continuations)
    assert found == pytest.approx(one_by_one(model.row, prompts, continuations), abs=1e-6)
    distinct = {each[:place] for each in continuations for place in range(len(each))}
    assert len(model.asked) == len(prompts) * len(distinct)  # what continuations share is asked for once


@pytest.mark.parametrize("max_tokens", [1, 12, 1000])
@pytest.mark.parametrize("kind", CONTINUATIONS)
@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2", "tiny_lstm"])
def test_they_are_those_of_the_logits(
    folder: str,
    kind: str,
    max_tokens: int,
    request: pytest.FixtureRequest,
    load_model: Callable[[Path], LanguageModel],
) -> None:
    model, continuations = load_model(request.getfixturevalue(folder)), CONTINUATIONS[kind]
    expected = one_by_one(lambda ids: model.logits([ids])[0][-1], PROMPTS, continuations)
    assert log_probabilities(model, PROMPTS, continuations, max_tokens=max_tokens) == pytest.approx(expected, abs=1e-4)
    shared = list(range(20))
    behind = [[*shared, *prompt] for prompt in PROMPTS]
    prefix = model.read_prefix(shared)
    found = log_probabilities(model, behind, continuations, max_tokens=max_tokens, prefix=prefix)
    assert found == pytest.approx(log_probabilities(model, behind, continuations), abs=1e-4)


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_lstm"])
def test_greedy_generation_ends_with_the_text(
    folder: str, request: pytest.FixtureRequest, load_model: Callable[[Path], LanguageModel]
) -> None:
    model = load_model(request.getfixturevalue(folder))
    generated = list(model.generate_greedily(PROMPTS[0], 12))
    read = list(PROMPTS[0])
    for token in generated:
        assert token == int(model.logits([read])[0][-1].argmax())
        assert read == PROMPTS[0] or read[-1] not in model.tokenizer.special.ends
        read.append(token)
    assert len(generated) == 12 or generated[-1] in model.tokenizer.special.ends


@given(st.lists(tokens, min_size=1, max_size=4))
@settings(max_examples=100)
def test_branches_give_each_token_once(continuations: list[tuple[int, ...]]) -> None:
    found = branches(continuations)
    columns = [column for branch in found for column in branch.columns]
    assert sorted(columns) == list(range(sum(map(len, continuations))))
    for branch in found:
        assert 1 <= branch.positions <= len(branch.ids) + 1
        assert set(branch.rows) == set(range(branch.positions))


OBJECTIVES = [
    Objective(((2, 0),), (1.0,)),
    Objective(((2, 0),), (1.0,), Transform.PROBABILITY),
    Objective(((2,), (0,)), (1.0, -1.0)),
    Objective(((2, 0, 1),), (-1.0,), Transform.LOG_ODDS),
    Objective(((2, 0, 1), (2, 3), (2,)), (0.5, -1.0, 2.0)),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_an_objective_is_the_same_in_torch_and_in_numpy(objective: Objective) -> None:
    value, positions = of_logits(objective)
    torch.manual_seed(1)
    logits = 3 * torch.randn(3, positions, 5)
    (branch,) = branches(objective.continuations)
    log_p = logits.double().log_softmax(-1)[:, branch.rows, branch.tokens].numpy()
    assert value(logits).numpy() == pytest.approx(objective.values(log_p), abs=1e-6)
    if objective.transform is Transform.LOG_ODDS:
        p = np.exp(log_p.sum(axis=1))
        assert objective.values(log_p) == pytest.approx(np.log(1 - p) - np.log(p))


def test_gradients_are_of_continuations_that_are_read_as_one() -> None:
    with pytest.raises(ValueError, match="read as one"):
        of_logits(Objective(((1, 2, 3), (1, 3, 3)), (1.0, -1.0)))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2", "tiny_lstm"])
def test_gradients_along_a_path_sum_to_the_difference(
    folder: str, objective: Objective, request: pytest.FixtureRequest, load_model: Callable[[Path], LanguageModel]
) -> None:
    model = load_model(request.getfixturevalue(folder))
    assert isinstance(model, OpenModel)
    assert isinstance(model, ModelInternals)
    (branch,) = branches(objective.continuations)
    prompts = [[*PROMPTS[1][:3], 8, 9], PROMPTS[1]]
    start, end = objective.values(log_probabilities(model, prompts, objective.continuations)).tolist()
    nodes, weights = np.polynomial.legendre.leggauss(200)
    begin, whole = ([*prompt, *branch.ids] for prompt in prompts)
    found = model.path_gradients(whole, objective, points=(nodes + 1) / 2, baseline=begin)
    assert found.shape == (200, len(whole))
    assert found.dtype == np.float64
    found = weights / 2 @ found
    assert not found[:3].any()  # these tokens are the same
    assert found.sum() == pytest.approx(end - start, abs=0.01 * max(1.0, abs(end - start)))
