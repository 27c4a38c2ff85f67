"""Scores are those of `context-cite` with the same masks, and planted facts stand where they should."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.citing.contexts import PROMPT, planted
from benchmarks.citing.ours import scores
from ml.model_folders import PRETRAINED
from ml.models.base import LanguageModel

SOURCES = (
    "The capital of France is Paris .",
    "A small bird sang .",
    "The film was long .",
    "Water was cold .",
    "It rained .",
)
ANSWER = (" The film was long .", " Water was cold .")


@pytest.mark.skipif(find_spec("context_cite") is None, reason="pip install context-cite==0.0.4")
@pytest.mark.filterwarnings("ignore")
def test_scores_are_those_of_context_cite(load_model: Callable[[Path], LanguageModel]) -> None:
    from benchmarks.citing.peer import Peer, attributions

    folder = PRETRAINED / "transformer"  # whose tokens are words, so that what is left has the same ones
    citer = Peer(folder).citer(SOURCES, "Why?", "".join(ANSWER), num_ablations=24)
    expected = attributions(citer, ANSWER)
    prompt = PROMPT.format(context=" ".join(SOURCES), query="Why?")
    found = scores(load_model(folder), SOURCES, prompt, "".join(ANSWER), citer._masks)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_words_of_a_planted_answer_are_nowhere_else() -> None:
    cases = list(planted(8))
    assert len({(case.question, case.answer) for case in cases}) == len(cases) == 50
    for case in cases:
        assert case.answer in case.sentences[case.planted]
        others = " ".join([*case.sentences[: case.planted], *case.sentences[case.planted + 1 :], case.question])
        assert case.answer.casefold() not in others.casefold().split()
