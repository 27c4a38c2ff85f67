"""Coarse to fine: leave-one-out and Owen values over a tree, what is left out of it, and what that may hide."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import InputError
from ml.explain import Run, prepare
from ml.explain.contributions import owen_coalitions
from ml.explain.hierarchical import HierarchicalExplainer
from ml.explain.hierarchy import Node
from ml.result import NodeLevel, StopReason, Verdict
from ml.spec import (
    Budget,
    Continuation,
    ExplanationSpec,
    Features,
    Hierarchical,
    NodeValue,
    Occlusion,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    Target,
    Unit,
)
from tests.unit.ml.explain.games import bumpy, crooked, mean_over_all_orders, saturating, shapley_values
from tests.unit.ml.explain.toys import YES_RATHER_THAN_NO, ToyGame, ToyModel, additive, estimates, word_tokenizer

REMOVAL, OWEN = NodeValue.REMOVAL, NodeValue.OWEN


def leaf(at):
    return Node(NodeLevel.WORD, at, at + 1, (at, at + 1))


def above(children):
    first, last = children[0], children[-1]
    return Node(NodeLevel.GROUP, first.start, last.stop, (first.span[0], last.span[1]), tuple(children))


def flat(features):
    return above([leaf(at) for at in range(features)])


def shaped(sizes):
    """A tree of trees: a number is so many leaves, a list is a node."""
    at = 0

    def grow(part):
        nonlocal at
        if isinstance(part, int):
            at += part
            return [leaf(place) for place in range(at - part, at)]
        inner = [child for each in part for child in grow(each)]
        return [above(inner)] if len(inner) > 1 else inner

    [root] = grow(sizes)
    return root


@st.composite
def trees(draw, features=st.integers(2, 9)):
    """Any tree over some features whose nodes have two children at least."""
    nodes = [leaf(at) for at in range(draw(features))]
    while len(nodes) > 1:
        start = draw(st.integers(0, len(nodes) - 2))
        stop = draw(st.integers(start + 2, len(nodes)))
        nodes[start:stop] = [above(nodes[start:stop])]
    return nodes[0]


def explain(root, game, node_value=REMOVAL, threshold=0.0, **budget):
    explainer = HierarchicalExplainer(root, Hierarchical(node_value, threshold), Budget(**budget))
    return estimates(explainer, game)


def owen_values(root, game):
    """By the definition: the mean contribution over all orders of the leaves that keep every part together."""
    features = len(root)

    def orders(node):
        if not node.children:
            return [(node.start,)]
        below = {child: orders(child) for child in node.children}
        return [
            sum(chosen, ())
            for order in permutations(node.children)
            for chosen in product(*(below[child] for child in order))
        ]

    total = np.zeros(features)
    every = orders(root)
    for order in every:
        present = np.zeros((features + 1, features), dtype=bool)
        for step, joined in enumerate(order):
            present[step + 1 :, joined] = True
        total[list(order)] += np.diff(game._value(present) * 1.0)
    return total / len(every)


def dividends(game):
    """Harsanyi's, by the coalition's number: the game is a sum of games in which just one coalition earns."""
    features = game.features
    numbers = np.arange(2**features)
    found = game._value((numbers[:, None] >> np.arange(features)) % 2 == 1) * 1.0
    for feature in range(features):
        held = (numbers >> feature) % 2 == 1
        found[held] -= found[numbers[held] ^ (1 << feature)]
    return found


def owen_by_dividends(root, game):
    """A dividend is shared equally at each node among the children that have a part in it, and so on below."""
    total = np.zeros(len(root))

    def share(node, members, amount):
        if not node.children:
            total[node.start] += amount
            return
        having = [child for child in node.children if any(child.start <= each < child.stop for each in members)]
        for child in having:
            share(child, [each for each in members if child.start <= each < child.stop], amount / len(having))

    for number, dividend in enumerate(dividends(game)):
        members = [each for each in range(len(root)) if number >> each & 1]
        if members:
            share(root, members, dividend)
    return total


def leave_one_out(game):
    present = np.vstack([np.ones(game.features, dtype=bool), ~np.eye(game.features, dtype=bool)])
    values = game._value(present) * 1.0
    return values[0] - values[1:]


@settings(max_examples=60, deadline=None)
@given(root=trees(), make=st.sampled_from([bumpy, crooked, saturating]))
def test_with_nothing_left_out_leaves_are_leave_one_out(root, make):
    found = explain(root, make(len(root)))[-1]
    assert found.attributions.tolist() == leave_one_out(make(len(root))).tolist()
    assert (found.standard_errors == 0).all()
    assert (found.stop, found.converged) == (StopReason.COMPLETE, True)
    assert found.hierarchy.rest_value is None
    assert all(node.hidden is None for node in found.hierarchy.nodes)


@settings(max_examples=60, deadline=None)
@given(root=trees(), make=st.sampled_from([bumpy, crooked]))
def test_owen_values_at_every_shape_of_tree(root, make):
    found = explain(root, make(len(root)), OWEN, max_evaluations=4096)[-1]
    assert found.attributions == pytest.approx(owen_by_dividends(root, make(len(root))), abs=1e-9)
    assert (found.standard_errors == 0).all()
    assert found.completeness_error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("sizes", [[5], [[2], [3]], [[1, [2]], [2, [1, [2]]]], [[[2], 1], 1, [2]]], ids=str)
def test_the_two_ways_to_define_owen_values_agree(sizes):
    root, game = shaped(sizes), bumpy(len(shaped(sizes)))
    assert owen_by_dividends(root, game) == pytest.approx(owen_values(root, game), abs=1e-9)


@pytest.mark.parametrize("sizes", [[12], [[4], [4], [4]], [[6], [[3], [3]]], [2, [2, [2, [2, [2, [2]]]]]]], ids=str)
def test_owen_values_of_twelve_leaves(sizes):
    found = explain(shaped(sizes), crooked(12), OWEN, max_evaluations=4096)[-1]
    assert found.attributions == pytest.approx(owen_by_dividends(shaped(sizes), crooked(12)), abs=1e-9)


def test_owen_values_of_a_flat_tree_are_shapley_values():
    assert explain(flat(6), crooked(6), OWEN)[-1].attributions == pytest.approx(shapley_values(crooked(6)))
    assert shapley_values(crooked(6)) == pytest.approx(mean_over_all_orders(crooked(6)))


@settings(max_examples=40, deadline=None)
@given(root=trees(st.integers(4, 12)), exact=st.booleans(), seed=st.integers(0, 99))
def test_children_sum_to_their_node(root, exact, seed):
    fewest = HierarchicalExplainer(root, Hierarchical(OWEN, 0.0), Budget(max_evaluations=2)).min_evaluations
    budget = {} if exact else {"max_evaluations": max(fewest, min(150, owen_coalitions(root) - 1)), "seed": seed}
    for found in explain(root, bumpy(len(root)), OWEN, **budget):
        nodes = found.hierarchy.nodes
        for node in nodes:
            if node.looked_into:
                assert sum(nodes[child].value for child in node.children) == pytest.approx(node.value, abs=1e-9)
        gain = np.diff(bumpy(len(root))._value(np.array([[False], [True]]).repeat(len(root), 1)))[0]
        assert found.attributions.sum() == pytest.approx(gain, abs=1e-9)
        assert nodes[0].value == pytest.approx(gain)


@settings(max_examples=60, deadline=None)
@given(
    root=trees(st.integers(2, 12)),
    node_value=st.sampled_from(NodeValue),
    threshold=st.sampled_from([0.0, 0.05, 0.5]),
    limit=st.none() | st.integers(2, 80),
)
def test_no_more_is_asked_than_was_planned(root, node_value, threshold, limit):
    game = bumpy(len(root))
    explainer = HierarchicalExplainer(root, Hierarchical(node_value, threshold), Budget(max_evaluations=limit))
    if limit is not None and explainer.min_evaluations > limit:
        return
    *_, last = estimates(explainer, game)
    assert game.asked <= explainer.max_evaluations <= (limit or np.inf)
    assert last.stop in {StopReason.COMPLETE, StopReason.EVALUATIONS}
