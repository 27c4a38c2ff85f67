"""The intervals are honest: over many seeds they hold the long-run value about as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from ml.explain import Run
from ml.language_model import LanguageModel
from ml.models import load
from ml.spec import (
    Budget,
    Estimator,
    ExplanationSpec,
    KernelShap,
    Lime,
    Method,
    NextTokenTarget,
    Prompt,
    ShapleyPermutation,
    Target,
)

PROMPTS = (
    "He scored his first goal of the season in the last minute of the match against Manchester",
    "The bridge was built in 1932 by the city engineers , and it was the longest of its kind in the country",
)
SEEDS = 30


@pytest.fixture(scope="module", params=["transformer", "lstm"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return load(request.param, device="cpu")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("text", PROMPTS)
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
def test_intervals_cover(
    model: LanguageModel, text: str, method: Method, evaluations: int, estimator: Estimator
) -> None:
    target = int(model.logits([model.tokenizer.encode(Prompt(text=text)).ids])[0][-1].argmax())

    def intervals(evaluations: int, seed: int, estimator: Estimator) -> np.ndarray:
        spec = ExplanationSpec(
            Prompt(text=text),
            method,
            target=Target(NextTokenTarget(id=target)),
            budget=Budget(max_evaluations=evaluations, seed=seed),
            faithfulness=False,
            estimator=estimator,
        )
        *_, last = Run(model, spec)
        assert last.result is not None
        return np.array([(each.value, each.interval.lower, each.interval.upper) for each in last.result.attributions])

    # The textbook's ridge shrinks its coefficients the more the fewer samples there are, so that its long run is the
    # mean of many runs of the same length. The others estimate the same whatever their length.
    many_short = isinstance(method, Lime) and estimator is Estimator.TEXTBOOK
    length, count = (evaluations, 60) if many_short else (4000, 4)
    runs = [intervals(length, 1000 + seed, estimator)[:, 0] for seed in range(count)]
    truth = np.mean(runs, axis=0)
    found = np.array([intervals(evaluations, seed, estimator) for seed in range(SEEDS)])
    held = (found[:, :, 1] <= truth) & (truth <= found[:, :, 2])
    assert 0.90 <= held.mean() <= 0.98
