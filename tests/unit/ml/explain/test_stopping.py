"""Sampling ends by itself once the largest attributions are settled, and what it then tells is as true as else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ml.explain.estimator import BoolArray, Estimate, Explainer, FloatArray, Pairwise
from ml.explain.explainers.context import ContextExplainer
from ml.explain.explainers.kernel_shap import KernelShapExplainer
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.explainers.permutation import PermutationExplainer
from ml.explain.sampling.interval import two_sided_95
from ml.explain.sampling.stopping import Stopping, agree, is_ranked, widened
from ml.result import StopReason
from ml.spec import Budget, ContextAttribution, Lime
from tests.unit.ml.explain.games import bumpy, crooked, lime_coefficients, saturating, shapley_values
from tests.unit.ml.explain.toys import ToyGame, additive, estimates, final

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
    assert game.asked <= 0.52 * make(Budget()).max_evaluations  # half of the permutations are few, and rounded up
    assert is_ranked(found)
    assert np.argsort(-found.attributions)[:5].tolist() == [0, 1, 2, 3, 4]


def test_context_attribution_ends_early_too() -> None:
    game = clear()
    explainer = ContextExplainer(FEATURES, ContextAttribution(), Budget(), np.asarray)
    assert estimates(explainer, game)[-1].stop is StopReason.RANKED
    assert game.asked < explainer.max_evaluations / 2


def test_the_packages_lime_takes_all_its_samples() -> None:
    """Of fewer it would find less: its penalty does not shrink with them."""
    found = estimates(LimeExplainer(FEATURES, Lime(), Budget()), game := clear())[-1]
    assert (found.stop, game.asked) == (StopReason.EVALUATIONS, 1000)


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


@pytest.mark.parametrize(
    ("before", "found", "agreed"),
    [
        ([3, 2, 1], [3, 2, 1], True),
        ([2, 3, 1], [3, 2, 1], False),
        ([2.9, 3, 1], [3, 2, 1], True),  # by less than makes a difference
        ([3, -2, 1], [3, 2, 1], False),
        ([3, 2, -0.1], [3, 2, 0.1], True),
        ([-1], [1], False),
        ([9, 8, 7, 6, 5, 0, 1], [9, 8, 7, 6, 5, 1, 0], True),  # nobody asks for more than five
        ([9, 8, 7, 6, 1, 5], [9, 8, 7, 6, 5, 1], False),
    ],
)
def test_two_looks_agree(before: list[float], found: list[float], agreed: bool) -> None:
    zeros = np.zeros(len(found))
    assert agree(Estimate(np.array(before), zeros), Estimate(np.array(found), zeros)) is agreed


def test_looks_are_few_and_none_comes_before_errors_are_believed() -> None:
    ranked = Estimate(np.array([2.0, 1.0]), np.zeros(2))
    stopping = Stopping(ranks=True, enough=200)
    assert stopping.looks(1000) == [200, 250, 500]
    assert [now for now in range(1, 1001) if stopping.reason(ranked, ranked, now, 1000)] == [200, 250, 500]
    assert Stopping(ranks=True, enough=600).looks(1000) == [600]


def test_what_is_seen_for_the_first_time_is_not_believed() -> None:
    stopping = Stopping(ranks=True)
    ranked, open_ = (Estimate(np.array([2.0, 1.0]), np.full(2, error)) for error in (0.0, 1.0))
    assert stopping.reason(ranked, None, 125, 1000) is None
    assert stopping.reason(ranked, open_, 250, 1000) is None
    assert stopping.reason(ranked, ranked, 250, 1000) is StopReason.RANKED


@pytest.mark.parametrize(
    ("before", "errors", "ends"),
    [
        (None, 0.01, True),
        (np.inf, 0.01, True),  # nothing was known before
        (0.05, 0.01, True),
        (0.05, 0.02, False),  # not below the limit
        (0.5, 0.01, False),  # a fit that suits few samples by accident
        (0.0, 0.0, True),
    ],
)
def test_errors_that_suddenly_fell_do_not_end_sampling(before: float | None, errors: float, ends: bool) -> None:
    stopping = Stopping(limit=0.02)
    was = None if before is None else Estimate(np.ones(2), np.full(2, before))
    assert stopping.reason(Estimate(np.ones(2), np.full(2, errors)), was, 50, 100) is (
        StopReason.STANDARD_ERROR if ends else None
    )


def test_a_limit_holds_for_interactions_too() -> None:
    pairs = Pairwise(np.ones(1), np.full(1, 0.5))
    found = Estimate(np.ones(2), np.zeros(2), interactions=pairs)
    assert Stopping(limit=0.4).reason(found, None, 50, 100) is None
    assert Stopping(limit=0.6).reason(found, None, 50, 100) is StopReason.STANDARD_ERROR


def test_a_kernel_that_suits_a_step_by_accident_does_not_end_sampling() -> None:
    """With these seeds, KernelSHAP reports errors below 0.001 after 128 evaluations of a vote, and 0.03 after more."""
    votes = 1.0 / np.arange(1, FEATURES + 1)
    game = ToyGame(FEATURES, lambda present: (present @ votes > votes.sum() / 2) * 1.0)
    for seed in (0, 7):
        budget = Budget(standard_error=0.005, max_evaluations=400, seed=seed)
        found = estimates(KernelShapExplainer(FEATURES, budget, control=True), game)[-1]
        assert found.stop is StopReason.EVALUATIONS


@pytest.mark.parametrize("method", ["KernelSHAP", "permutations"])
def test_what_few_samples_show_ends_nothing(method: str) -> None:
    """A player that matters only where it is alone: of an eighth of the samples, few are of that."""
    effects = 0.75 ** np.arange(FEATURES)
    alone = ToyGame(FEATURES, lambda present: present @ effects + 12.0 * ((present.sum(axis=1) == 1) & present[:, 9]))
    largest = int(np.argmax(shapley_values(alone)))
    runs = [final(EXPLAINERS[method](Budget(seed=seed)), alone) for seed in range(12)]
    assert all(np.argmax(run.attributions) == largest for run in runs if run.stop is StopReason.RANKED)


def test_errors_count_what_was_known_before_and_what_changed_since() -> None:
    before = Estimate(np.array([1.0, 0.0]), np.array([0.3, 0.0]), freedom=9)
    found = Estimate(np.array([1.0, 0.2]), np.array([0.1, 0.1]), freedom=99)
    ended = widened(before, found)
    assert ended.attributions is found.attributions
    # Half of the mean square change is also the first one's, which did not move.
    assert ended.standard_errors == pytest.approx([np.hypot(0.3, 0.1), np.hypot(0.1, np.sqrt(0.03))])
    assert ended.freedom == 9
    assert not ended.converged  # beside a largest attribution of 1


def test_rows_of_what_ended_early_count_it_too() -> None:
    effects = 0.75 ** np.arange(FEATURES)
    row = ToyGame(FEATURES, lambda present: present @ effects + 0.03 * present[:, :2].all(1))
    whole = ToyGame(FEATURES, lambda present: 2 * (present @ effects) + 0.03 * present[:, :2].all(1))

    def values(coalitions: BoolArray) -> FloatArray:
        return np.array([row._value(coalitions), whole._value(coalitions) - row._value(coalitions)])

    *_, plain, ended = estimates(EXPLAINERS["KernelSHAP, textbook"](Budget()), whole)
    assert ended.stop is StopReason.RANKED
    assert plain.rows is not None
    assert ended.rows is not None
    first, second = ended.rows(values)
    assert (first.standard_errors >= next(iter(plain.rows(values))).standard_errors).all()
    assert first.attributions + second.attributions == pytest.approx(ended.attributions)
    missed = np.abs(first.attributions - shapley_values(row))
    assert (missed <= two_sided_95(first.freedom) * first.standard_errors + 1e-9).mean() >= 0.9


def nearly_additive(features: int) -> ToyGame:
    """A sum, but for interactions of a thousandth, which a kernel takes for noise and smooths away."""
    effects = 0.75 ** np.arange(features)
    return ToyGame(features, lambda present: present @ effects + 0.001 * present[:, :2].all(1))


@pytest.mark.parametrize("game", [saturating, nearly_additive, lambda features: additive(0.75 ** np.arange(features))])
@pytest.mark.parametrize(("method", "truth"), [("KernelSHAP", shapley_values), ("LIME", lime_coefficients)])
def test_intervals_cover_what_is_fitted_almost_without_error(
    method: str, truth: Callable[[ToyGame], FloatArray], game: Callable[[int], ToyGame]
) -> None:
    true, held = truth(game(FEATURES)), []
    for seed in range(12):
        found = final(EXPLAINERS[method](Budget(seed=seed)), game(FEATURES))
        assert found.stop is StopReason.RANKED
        held.append(np.abs(found.attributions - true) <= two_sided_95(found.freedom) * found.standard_errors + 1e-9)
    assert np.mean(held) >= 0.9


@pytest.mark.parametrize("make", [EXPLAINERS[name] for name in ("KernelSHAP, textbook", "permutations")])
@pytest.mark.parametrize("game", [saturating, pytest.param(bumpy, marks=pytest.mark.slow), crooked])
def test_intervals_cover_where_sampling_chose_its_end(
    make: Callable[[Budget], Explainer], game: Callable[[int], ToyGame]
) -> None:
    truth = shapley_values(game(FEATURES))
    held = []
    for seed in range(100):
        found = final(make(Budget(seed=seed)), game(FEATURES))
        held.append(np.abs(found.attributions - truth) <= two_sided_95(found.freedom) * found.standard_errors + 1e-9)
    assert np.mean(held) >= 0.92
    assert min(np.mean(held, axis=0)) >= 0.85
