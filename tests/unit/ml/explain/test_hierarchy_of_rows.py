"""Coarse to fine for a target with rows: a part on which a single row rests is looked into as well."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.explain.explainers.hierarchical import HierarchicalExplainer
from ml.explain.hierarchy.prior import for_any
from ml.explain.hierarchy.tree import tree
from ml.result import NodeLevel, StopReason
from ml.spec import Budget, Hierarchical, NodeValue
from tests.unit.ml.explain.games import bumpy, crooked, saturating
from tests.unit.ml.explain.test_hierarchical import leave_one_out, trees
from tests.unit.ml.explain.toys import ToyGame, estimates


class RowGame(ToyGame):
    """A game whose value is the sum of its rows' values."""

    def __init__(self, rows: list[ToyGame]) -> None:
        super().__init__(rows[0].features, lambda present: np.sum([row._value(present) for row in rows], axis=0))
        self.rows = rows

    def row_values(self, coalitions):
        return np.array([row._value(coalitions) * 1.0 for row in self.rows])


def additive_rows(effects):
    """Effects float64 [rows, features]."""
    return RowGame([ToyGame(effects.shape[1], lambda present, row=row: present @ row) for row in effects])


def searched(root, game, node_value=NodeValue.REMOVAL, threshold=0.0, prior=None, **budget):
    return estimates(HierarchicalExplainer(root, Hierarchical(node_value, threshold), Budget(**budget), prior), game)[
        -1
    ]


def rows_of(found, game):
    return list(found.rows(game.row_values))


def flat(features):
    return tree([], [(at, at + 1) for at in range(features)], NodeLevel.SENTENCE)


def unequal(seed, features=200):
    """Four rows with two large sources each, of which the first row has six times larger ones than the third."""
    random = np.random.default_rng(seed)
    effects = random.normal(scale=0.02, size=(4, features))
    for row in effects:
        row[random.choice(features, 2, replace=False)] += random.uniform(0.5, 1, size=2)
    return effects * np.array([12, 4, 2, 1.2])[:, None]


def firsts_found(game, effects):
    """How many rows' largest sources were measured within 60 evaluations."""
    found = searched(flat(effects.shape[1]), game, max_evaluations=60)
    assert game.asked <= 60
    return sum(found.standard_errors[row.argmax()] == 0 for row in effects)


def test_the_first_source_of_each_row_is_found() -> None:
    with_rows = sum(firsts_found(additive_rows(unequal(seed)), unequal(seed)) for seed in range(10))
    by_sum = sum(firsts_found(ToyGame(200, additive_rows(unequal(seed))._value), unequal(seed)) for seed in range(10))
    assert with_rows >= 37
    assert by_sum <= 30


def test_what_helps_one_row_and_harms_another_is_found() -> None:
    effects = np.zeros((2, 64))
    effects[:, 37] = 3.0, -3.0
    effects[:, 5] = 1.0, 0.5
    for threshold in (0.0, 0.05):
        found = searched(flat(64), additive_rows(effects), threshold=threshold, max_evaluations=30)
        assert found.standard_errors[37] == found.standard_errors[5] == 0
        first, second = rows_of(found, additive_rows(effects))
        assert (first.attributions[37], second.attributions[37]) == pytest.approx((3.0, -3.0))
    assert searched(flat(64), ToyGame(64, additive_rows(effects)._value), threshold=0.05).standard_errors[37] > 0


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3])
def test_a_row_that_hardly_rests_on_the_text_costs_nothing(size: float) -> None:
    effects = np.zeros((2, 200))
    effects[0, [17, 120]] = 5.0, 3.0
    effects[1] = size * np.random.default_rng(0).normal(size=200)
    asked = []
    for game in (additive_rows(effects), additive_rows(effects[:1])):
        found = searched(flat(200), game, threshold=0.05)
        assert found.stop is StopReason.COMPLETE
        asked.append(game.asked)
    assert asked[0] <= asked[1] + 4


@settings(max_examples=40)
@given(root=trees(), makes=st.lists(st.sampled_from([bumpy, crooked, saturating]), min_size=1, max_size=3))
def test_with_nothing_left_out_rows_are_leave_one_out(root, makes) -> None:
    game = RowGame([make(len(root)) for make in makes])
    for budget in ({}, {"max_evaluations": 2 + len([*root])}):
        found = searched(root, game, prior=np.arange(1.0, 1 + len(root)), **budget)
        assert (found.stop, found.converged) == (StopReason.COMPLETE, True)
        assert found.attributions == pytest.approx(leave_one_out(game), abs=1e-9)
        for row, each in zip(rows_of(found, game), game.rows, strict=True):
            assert row.attributions == pytest.approx(leave_one_out(each), abs=1e-9)


@settings(max_examples=60)
@given(root=trees(3, 12), threshold=st.sampled_from([0.05, 0.3, 1]))
def test_no_part_that_is_left_is_worth_the_threshold_of_a_rows_largest_leaf(root, threshold) -> None:
    game = RowGame([bumpy(len(root)), crooked(len(root))])
    found = searched(root, game, threshold=threshold)
    every = np.array([each.attributions for each in rows_of(found, game)])
    measured = np.isfinite(found.standard_errors)
    for node in found.hierarchy.nodes:
        if node.hidden is not None:
            own = slice(node.first_feature, node.first_feature + node.feature_count)
            values = np.array([leave_out(each, own) for each in game.rows])
            largest = np.abs(every[:, measured]).max(axis=1, initial=0)
            assert (np.abs(values) < np.maximum(threshold * np.maximum(largest, largest.max() / 10), 1e-12)).all()


def leave_out(game, part):
    present = np.ones((2, game.features), dtype=bool)
    present[1, part] = False
    full, without = game._value(present) * 1.0
    return full - without


@settings(max_examples=40)
@given(root=trees(2, 12), node_value=st.sampled_from(NodeValue), limit=st.integers(2, 80), seed=st.integers(0, 9))
def test_rows_that_are_the_whole_change_nothing(root, node_value, limit, seed) -> None:
    alone, same = bumpy(len(root)), RowGame([bumpy(len(root))])
    explainer = HierarchicalExplainer(root, Hierarchical(node_value, 0.05), Budget(max_evaluations=limit, seed=seed))
    if explainer.min_evaluations > limit:
        return
    plain, found = (estimates(explainer, game)[-1] for game in (alone, same))
    assert found.attributions.tolist() == plain.attributions.tolist()
    assert found.hierarchy == plain.hierarchy
    assert alone.asked == same.asked <= limit


@settings(max_examples=40)
@given(root=trees(4, 12), limit=st.integers(20, 80))
def test_owen_values_of_rows_sum_to_their_gains(root, limit) -> None:
    game = RowGame([bumpy(len(root)), crooked(len(root))])
    explainer = HierarchicalExplainer(root, Hierarchical(NodeValue.OWEN, 0.05), Budget(max_evaluations=limit))
    if explainer.min_evaluations > limit:
        return
    found = estimates(explainer, game)[-1]
    assert game.asked <= limit
    ends = np.array([[False], [True]]).repeat(len(root), axis=1)
    gains = np.diff(game.row_values(ends), axis=1)[:, 0]
    assert [row.attributions.sum() for row in rows_of(found, game)] == pytest.approx(gains.tolist(), abs=1e-9)


@pytest.mark.parametrize("patience", range(0, 40, 3))
def test_without_time_rows_are_numbers(patience: int) -> None:
    game = additive_rows(unequal(0, 64))
    game._patience = patience
    found = searched(flat(64), game, max_evaluations=50)
    if found.rows is not None:
        assert np.isfinite([row.attributions for row in rows_of(found, game)]).all()


def test_a_prior_for_any_number() -> None:
    one, two = np.array([4.0, 0.0, 1.0]), np.array([0.0, 10.0, 1.0])
    assert for_any([one], np.array([1.0])) is one
    assert for_any([one, two], np.array([1.0, 1.0])) == pytest.approx([0.8, 10 / 11, 0.2])
    assert for_any([one, two], np.array([1.0, 0.1])) == pytest.approx([0.8, 1 / 11, 0.2])
