"""Sampling ends by itself once the largest attributions are settled, and what it then tells is as true as else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ml.explain.estimator import Estimate, Explainer
from ml.explain.explainers.context import ContextExplainer
from ml.explain.explainers.kernel_shap import KernelShapExplainer
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.explainers.permutation import PermutationExplainer
from ml.explain.sampling.interval import two_sided_95
from ml.explain.sampling.stopping import Stopping, is_ranked
from ml.result import StopReason
from ml.spec import Budget, ContextAttribution, Lime
from tests.unit.ml.explain.games import bumpy, crooked, saturating, shapley_values
from tests.unit.ml.explain.toys import ToyGame, additive, estimates

FEATURES = 12
EXPLAINERS: dict[str, Callable[[Budget], Explainer]] = {
    "LIME": lambda budget: LimeExplainer(FEATURES, Lime(), budget, control=True),
    "KernelSHAP": lambda budget: KernelShapExplainer(FEATURES, budget, control=True),
    "KernelSHAP, textbook": lambda budget: KernelShapExplainer(FEATURES, budget),
    "permutations": lambda budget: PermutationExplainer(FEATURES, budget),
}
every_method = pytest.mark.parametrize("make", EXPLAINERS.values(), ids=EXPLAINERS)


def clear() -> ToyGame:
    """Each player is worth a third more than the next."""
    return additive(0.75 ** np.arange(FEATURES))


@every_method
def test_what_is_clear_ends_early(make: Callable[[Budget], Explainer]) -> None:
    game = clear()
    found = estimates(make(Budget()), game)[-1]
    assert found.stop is StopReason.RANKED
    assert game.asked <= make(Budget()).max_evaluations / 2
    assert is_ranked(found)
    assert np.argsort(-found.attributions)[:5].tolist() == [0, 1, 2, 3, 4]


def test_context_attribution_ends_early_too() -> None:
    game = clear()
    explainer = ContextExplainer(FEATURES, ContextAttribution(), Budget(), np.asarray)
    assert estimates(explainer, game)[-1].stop is StopReason.RANKED
    assert game.asked < explainer.max_evaluations / 2


@every_method
@pytest.mark.parametrize("asked", [{"max_evaluations": 400}, {"standard_error": 1e-9}])
def test_who_asks_for_something_else_gets_that(make: Callable[[Budget], Explainer], asked: dict[str, float]) -> None:
    game = clear()
    explainer = make(Budget(**asked))
    found = estimates(explainer, game)[-1]
    assert found.stop is not StopReason.RANKED
    assert game.asked == explainer.max_evaluations or found.stop is StopReason.STANDARD_ERROR


def test_equals_are_never_told_apart_and_end_it_once_they_are_known_well() -> None:
    equal = np.ones(4)
    assert not is_ranked(Estimate(equal, np.full(4, 0.02)))
    assert is_ranked(Estimate(equal, np.full(4, 0.01)))


@pytest.mark.parametrize(
    ("attributions", "errors", "ranked"),
    [
        ([3, 2, 1, 0.1, 0.0, 0.0], [0.1] * 6, False),  # whose turn it is at the end is open
        ([3, 2, 1, 0.1, 0.0, 0.0], [0.03] * 6, True),
        ([3, -2, 1, 0.5, 0.2, 0.0], [0.03] * 6, True),  # by size, whatever the sign
        ([3, 2, 1, 0.5, 0.2, 0.0], [np.inf] + [0.0] * 5, False),
        ([0.0, 0.0], [0.0, 0.0], False),
        ([2.0, 1.0], [0.0, 0.0], True),
    ],
)
def test_ranked(attributions: list[float], errors: list[float], ranked: bool) -> None:
    assert is_ranked(Estimate(np.array(attributions), np.array(errors))) is ranked


def test_looks_are_few_and_none_comes_before_errors_are_believed() -> None:
    ranked = Estimate(np.array([2.0, 1.0]), np.zeros(2))
    stopping = Stopping(ranks=True, enough=200)
    looks = [now for now in range(1, 1001) if stopping.reason(ranked, now, 1000)]
    assert looks == [200, 250, 500]


@pytest.mark.parametrize("make", [EXPLAINERS[name] for name in ("KernelSHAP, textbook", "permutations")])
@pytest.mark.parametrize("game", [saturating, bumpy, crooked])
def test_intervals_cover_where_sampling_chose_its_end(
    make: Callable[[Budget], Explainer], game: Callable[[int], ToyGame]
) -> None:
    truth = shapley_values(game(FEATURES))
    held = []
    for seed in range(100):
        found = estimates(make(Budget(seed=seed)), game(FEATURES))[-1]
        held.append(np.abs(found.attributions - truth) <= two_sided_95(found.freedom) * found.standard_errors + 1e-9)
    assert np.mean(held) >= 0.92
    assert min(np.mean(held, axis=0)) >= 0.85
