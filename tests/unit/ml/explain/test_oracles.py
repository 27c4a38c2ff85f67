"""Explanations that are exact equal what other packages compute from all coalitions."""

from __future__ import annotations

import numpy as np
import pytest

from ml import spec
from ml.explain.explainers.interactions import InteractionsExplainer
from ml.explain.hierarchy.tree import Node
from ml.explain.methods import _of_a_game
from ml.result import NodeLevel
from ml.spec import Budget, ExplanationSpec, KernelShap, Prompt, ShapleyPermutation
from tests.unit.ml.explain.games import saturating
from tests.unit.ml.explain.toys import estimates

FEATURES = (1, 2, 3, 6)


def exact(game, method):
    asked = ExplanationSpec(Prompt(text="any"), method, budget=Budget(max_evaluations=64))
    text = Node(NodeLevel.TEXT, 0, game.features, (0, 0))
    found = estimates(_of_a_game(asked, game.features, text), game)[-1]
    assert (found.standard_errors == 0).all()
    return found


@pytest.mark.parametrize("method", [KernelShap(), ShapleyPermutation(), spec.Interactions()])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.filterwarnings("ignore")
def test_shapley_values_are_those_of_shap(features, method):
    import shap

    game = saturating(features)
    explainer = shap.explainers.ExactExplainer(lambda kept: game._value(kept == 1), np.zeros((1, features)))
    expected = explainer(np.ones((1, features))).values[0]
    assert exact(game, method).attributions == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("features", FEATURES[1:])
@pytest.mark.filterwarnings("ignore")
def test_interactions_are_those_of_shapiq(features):
    import shapiq

    game = saturating(features)
    computer = shapiq.ExactComputer(n_players=features, game=lambda kept: game._value(np.asarray(kept) == 1) * 1.0)
    found = exact(game, spec.Interactions())
    for order, values in ((1, found.attributions), (2, found.interactions.values)):
        expected = computer("SII", order=order).get_n_order_values(order)
        wanted = expected if order == 1 else expected[np.triu_indices(features, 1)]
        assert values == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("features", [8, 11])
def test_a_budget_of_all_coalitions_asks_for_each_once(features):
    game = saturating(features)
    found = estimates(InteractionsExplainer(features, Budget(max_evaluations=2**features)), game)[-1]
    assert game.asked == 2**features
    assert (found.standard_errors == 0).all()
