"""The intervals are honest: over many seeds they hold the long-run value about as often as they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml.explain import Run
from ml.models.base import LanguageModel
from ml.models.loading import load
from ml.spec import (
    Budget,
    Estimator,
    ExplanationSpec,
    KernelShap,
    Lime,
    Method,
    NextTokenTarget,
    Prompt,
    Quality,
    ShapleyPermutation,
    Target,
)

PROMPTS = (
    "He scored his first goal of the season in the last minute of the match against Manchester",
    "The bridge was built in 1932 by the city engineers , and it was the longest of its kind in the country",
    "In the spring of 1954 a new company bought the land on both sides of the river and began to build houses",
    "The album was released in the United States on March 3 , and received mixed reviews from music critics , who",
)
SEEDS = 30


@pytest.fixture(scope="module", params=["transformer", "lstm"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return load(request.param, device="cpu")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("method", "evaluations", "estimator"),
    [
        (Lime(), 300, Estimator.CONTROL_VARIATES),
        (Lime(), 300, Estimator.TEXTBOOK),
        (KernelShap(), 300, Estimator.CONTROL_VARIATES),
        (KernelShap(), 500, Estimator.TEXTBOOK),
        (ShapleyPermutation(), 600, Estimator.TEXTBOOK),
    ],
)
def test_intervals_cover(model: LanguageModel, method: Method, evaluations: int, estimator: Estimator) -> None:
    coverage = [covered(model, text, method, evaluations, estimator) for text in PROMPTS]
    # How wide intervals come out differs from prompt to prompt: none may be too narrow, nor all of them too wide.
    assert min(coverage) >= 0.90, coverage
    assert np.mean(coverage) <= 0.98, coverage


def estimated(method: Method, estimator: Estimator) -> Method:
    """The method with that estimator, where it has one."""
    return replace(method, estimator=estimator) if isinstance(method, KernelShap | Lime) else method


def covered(model: LanguageModel, text: str, method: Method, evaluations: int, estimator: Estimator) -> float:
    """How often an interval of one of many short runs holds what long runs find."""
    target = int(model.logits([model.tokenizer.encode(Prompt(text=text)).ids])[0][-1].argmax())

    def intervals(evaluations: int, seed: int, estimator: Estimator) -> np.ndarray:
        spec = ExplanationSpec(
            Prompt(text=text),
            estimated(method, estimator),
            target=Target(NextTokenTarget(id=target)),
            budget=Budget(max_evaluations=evaluations, seed=seed),
            quality=Quality(False),
        )
        *_, last = Run(model, spec)
        assert last.result is not None
        return np.array(
            [(each.attribution, each.interval.lower, each.interval.upper) for each in last.result.attributions]
        )

    # The textbook's ridge shrinks its coefficients the more the fewer samples there are, so that its long run is the
    # mean of many runs of the same length. The others estimate the same whatever their length.
    many_short = isinstance(method, Lime) and estimator is Estimator.TEXTBOOK
    length, count = (evaluations, 60) if many_short else (4000, 4)
    runs = [intervals(length, 1000 + seed, estimator)[:, 0] for seed in range(count)]
    truth = np.mean(runs, axis=0)
    found = np.array([intervals(evaluations, seed, estimator) for seed in range(SEEDS)])
    held = (found[:, :, 1] <= truth) & (truth <= found[:, :, 2])
    return float(held.mean())
