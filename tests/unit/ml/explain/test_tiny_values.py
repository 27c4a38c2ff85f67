"""The probability of a long continuation may be 1e-200, whose square is 0: what is said of it is in proportion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ml.explain.estimator import Explainer, FloatArray
from ml.explain.explainers.context import ContextExplainer
from ml.explain.explainers.enumeration import EnumerationExplainer
from ml.explain.explainers.hierarchical import HierarchicalExplainer
from ml.explain.explainers.interactions import InteractionsExplainer
from ml.explain.explainers.kernel_shap import KernelShapExplainer
from ml.explain.explainers.lime import LimeExplainer
from ml.explain.explainers.permutation import PermutationExplainer
from ml.explain.explainers.sparse_interactions import SparseInteractionsExplainer
from ml.explain.hierarchy.tree import tree
from ml.explain.sampling.surrogates import r_squared
from ml.explain.trust.faithfulness import Plan
from ml.explain.values.trial import Sample, Trial
from ml.result import NodeLevel
from ml.spec import Budget, ContextAttribution, Hierarchical, Lime, NodeValue, SurrogateKind
from tests.unit.ml.explain.games import crooked, saturating
from tests.unit.ml.explain.toys import ToyGame, final

FEATURES = 12
TINY = 2.0**-660
"""About 1e-199; a power of two, by which numbers are multiplied without rounding."""

Make = Callable[[Budget], Explainer]
WAYS: dict[str, Make] = {
    "LIME": lambda budget: LimeExplainer(FEATURES, Lime(), budget, control=True),
    "LIME, textbook": lambda budget: LimeExplainer(FEATURES, Lime(), budget),
    "LIME's tree": lambda budget: LimeExplainer(FEATURES, Lime(SurrogateKind.DECISION_TREE), budget),
    "LIME's lasso without penalty": lambda budget: LimeExplainer(FEATURES, Lime(SurrogateKind.LASSO, 0.0), budget),
    "context attribution without penalty": lambda budget: ContextExplainer(
        FEATURES, ContextAttribution(0.0), budget, np.asarray
    ),
    "KernelSHAP": lambda budget: KernelShapExplainer(FEATURES, budget, control=True),
    "KernelSHAP, textbook": lambda budget: KernelShapExplainer(FEATURES, budget),
    "permutations": lambda budget: PermutationExplainer(FEATURES, budget),
    "part of all coalitions": lambda budget: EnumerationExplainer(FEATURES, budget),
    "interactions": lambda budget: InteractionsExplainer(FEATURES, budget),
    "sparse interactions": lambda budget: SparseInteractionsExplainer(FEATURES, budget),
    "sampled Owen values": lambda budget: HierarchicalExplainer(
        tree([], [(at, at + 1) for at in range(FEATURES)], NodeLevel.WORD), Hierarchical(NodeValue.OWEN), budget
    ),
}


@pytest.mark.parametrize("limit", [166, None])
@pytest.mark.parametrize("make_game", [crooked, saturating])
@pytest.mark.parametrize("name", WAYS)
def test_errors_are_in_proportion(name: str, make_game: Callable[[int], ToyGame], limit: int | None) -> None:
    game, patience = make_game(FEATURES), 500.0 if name == "part of all coalitions" else np.inf
    tiny = ToyGame(FEATURES, lambda coalitions: TINY * game._value(coalitions), patience)
    plain = ToyGame(FEATURES, game._value, patience)
    expected, found = (final(WAYS[name](Budget(max_evaluations=limit)), each) for each in (plain, tiny))
    scale = 1.0 if name == "LIME's tree" else TINY  # its attributions are shares
    assert found.attributions / scale == pytest.approx(expected.attributions, rel=1e-4, abs=1e-4)
    assert found.standard_errors / scale == pytest.approx(expected.standard_errors, rel=1e-3, abs=1e-4)
    assert (found.stop, found.converged) == (expected.stop, expected.converged)
    assert found.freedom == pytest.approx(expected.freedom, abs=1)
    if expected.interactions is not None and found.interactions is not None:
        errors = expected.interactions.standard_errors
        assert found.interactions.standard_errors / TINY == pytest.approx(errors, rel=1e-3, abs=1e-4)


def test_a_poor_fit_of_tiny_values_is_poor() -> None:
    values, predicted, weights = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0]), np.ones(4)
    assert r_squared(TINY * values, TINY * predicted, weights) == r_squared(values, predicted, weights) == -1


def test_faithfulness_has_the_same_shape() -> None:
    plan, random = Plan.of(FEATURES, FEATURES), np.random.default_rng(0)
    values: FloatArray = random.random(plan.coalitions(plan.rankings(np.arange(FEATURES) * 1.0, 0)).shape[:-1])
    expected, found = plan.measure(values), plan.measure(TINY * values)
    assert expected is not None
    assert found is not None
    assert found.deletion_auc == expected.deletion_auc
    assert found.comprehensiveness.aopc.random_deviation == pytest.approx(
        TINY * expected.comprehensiveness.aopc.random_deviation
    )


def test_faster_models_are_not_trusted_blindly() -> None:
    """Errors as large as the values are too large, however small both are."""
    values = np.linspace(1, 2, 30)
    sample = Sample(dict.fromkeys(range(30), 1.0), dict.fromkeys(range(30), 1.0))
    trial = Trial(sample, {index: np.array([TINY * value]) for index, value in enumerate(values)})
    assert trial.passed(TINY * values[::-1, None]) is None
    assert trial.passed(TINY * values[:, None]) is not None
