"""Coarse to fine: leave-one-out and Owen values over a tree, what is left out of it, and what that may hide."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import InputError
from ml.explain import Run, prepare
from ml.explain.explainers.hierarchical import HierarchicalExplainer
from ml.explain.hierarchy.contributions import owen_coalitions
from ml.explain.hierarchy.prior import prior_of
from ml.explain.hierarchy.tree import Node, tree
from ml.explain.removal import BY_SIMILAR_WORDS
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
def trees(draw, smallest=2, largest=9):
    """Any tree over some features whose nodes have two children at least."""
    nodes = [leaf(at) for at in range(draw(st.integers(smallest, largest)))]
    while len(nodes) > 1:
        start = draw(st.integers(0, len(nodes) - 2))
        stop = draw(st.integers(start + 2, len(nodes)))
        nodes[start:stop] = [above(nodes[start:stop])]
    return nodes[0]


def explain(root, game, node_value=REMOVAL, threshold=0.0, *, prior=None, trust=0.0, **budget):
    explainer = HierarchicalExplainer(root, Hierarchical(node_value, threshold), Budget(**budget), prior, trust)
    return estimates(explainer, game)


def priors(features, seed):
    """Priors by name: of no use, misleading, or no numbers at all."""
    random = np.random.default_rng(seed).uniform(size=features)
    odd = np.random.default_rng(seed).choice([np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-300, 1e300], features)
    return {"none": None, "random": random, "zeros": 0 * random, "NaN": np.nan * random, "odd": odd}


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


@settings(max_examples=60)
@given(
    root=trees(),
    make=st.sampled_from([bumpy, crooked, saturating]),
    prior=st.sampled_from([*priors(1, 0)]),
    limited=st.booleans(),
)
def test_with_nothing_left_out_leaves_are_leave_one_out(root, make, prior, limited):
    budget = {"max_evaluations": 2 + len([*root])} if limited else {}
    found = explain(root, make(len(root)), prior=priors(len(root), 0)[prior], **budget)[-1]
    assert found.attributions == pytest.approx(leave_one_out(make(len(root))), abs=1e-12)
    assert (found.standard_errors == 0).all()
    assert (found.stop, found.converged) == (StopReason.COMPLETE, True)
    assert all(node.hidden is None for node in found.hierarchy.nodes)


@settings(max_examples=60)
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


@settings(max_examples=40)
@given(root=trees(4, 12), exact=st.booleans(), seed=st.integers(0, 99))
def test_children_sum_to_their_node(root, exact, seed):
    minimum = HierarchicalExplainer(root, Hierarchical(OWEN, 0.0), Budget(max_evaluations=2)).min_evaluations
    budget = {} if exact else {"max_evaluations": max(minimum, min(150, owen_coalitions(root) - 1)), "seed": seed}
    for found in explain(root, bumpy(len(root)), OWEN, **budget):
        nodes = found.hierarchy.nodes
        for node in nodes:
            if node.looked_into:
                assert sum(nodes[child].value for child in node.children) == pytest.approx(node.value, abs=1e-9)
        gain = np.diff(bumpy(len(root))._value(np.array([[False], [True]]).repeat(len(root), 1)))[0]
        assert found.attributions.sum() == pytest.approx(gain, abs=1e-9)
        assert nodes[0].value == pytest.approx(gain)


@settings(max_examples=60)
@given(
    root=trees(2, 12),
    node_value=st.sampled_from(NodeValue),
    threshold=st.sampled_from([0.0, 0.05, 0.5]),
    limit=st.none() | st.integers(2, 80),
    prior=st.sampled_from([*priors(1, 0)]),
)
def test_no_more_is_asked_than_was_planned(root, node_value, threshold, limit, prior):
    game, sizes = bumpy(len(root)), priors(len(root), 0)[prior]
    explainer = HierarchicalExplainer(root, Hierarchical(node_value, threshold), Budget(max_evaluations=limit), sizes)
    if limit is not None and explainer.min_evaluations > limit:
        return
    *_, last = estimates(explainer, game)
    assert game.asked <= explainer.max_evaluations <= (limit or np.inf)
    assert last.stop in {StopReason.COMPLETE, StopReason.EVALUATIONS}


def planted(features, effects):
    """A game that is the sum of a few features' effects."""
    every = np.zeros(features)
    for feature, effect in effects.items():
        every[feature] = effect
    return additive(every)


def deep(features):
    """A tree of parts of three."""
    nodes = [leaf(at) for at in range(features)]
    while len(nodes) > 3:
        nodes = [above(nodes[at : at + 3]) if len(nodes) - at > 1 else nodes[at] for at in range(0, len(nodes), 3)]
    return above(nodes)


def test_a_planted_source_is_found_with_few_evaluations():
    found = explain(deep(81), planted(81, {40: 3.0, 70: 1.0}), max_evaluations=2 + 3 * 4 + 1)[-1]
    assert int(found.attributions.argmax()) == 40
    assert found.attributions[40] == pytest.approx(3.0)
    assert (found.stop, found.converged) == (StopReason.EVALUATIONS, False)


def sources_of_200(seed):
    """The effects of 200 sources, five of which are large."""
    random = np.random.default_rng(seed)
    effects = random.normal(scale=0.02, size=200)
    effects[random.choice(200, 5, replace=False)] += random.uniform(1, 3, size=5)
    return effects


def enough(effects):
    """A game in which sources make up for each other, so that parts are worth far more than what is in them."""
    return ToyGame(len(effects), lambda present: -np.log1p(np.exp(3 - present @ np.abs(effects))))


@pytest.mark.parametrize("threshold", [0.0, 0.05])
@pytest.mark.parametrize("make", [additive, enough])
def test_five_of_two_hundred_are_found_within_sixty(make, threshold):
    root, found = tree([], [(at, at + 1) for at in range(200)], NodeLevel.SENTENCE), []
    for seed in range(20):
        game = make(sources_of_200(seed))
        last = explain(root, game, threshold=threshold, max_evaluations=60)[-1]
        assert game.asked <= 60
        largest = np.argsort(-leave_one_out(game))[:5]
        found.append(len({*np.argsort(-last.attributions)[:5].tolist()} & {*largest.tolist()}))
    assert np.mean(found) >= 4.5


def five_of(game, sizes=None):
    """How many of the five largest of 200 are found within 60."""
    last = explain(
        tree([], [(at, at + 1) for at in range(200)], NodeLevel.SENTENCE), game, prior=sizes, max_evaluations=60
    )
    assert game.asked <= 60
    largest = np.argsort(-leave_one_out(game))[:5]
    return len({*np.argsort(-last[-1].attributions)[:5].tolist()} & {*largest.tolist()})


def opposed(seed):
    """The effects of 200 sources, in which parts cancel out: no value of a part tells what is in it."""
    random = np.random.default_rng(seed)
    effects = random.normal(scale=0.3, size=200)
    first = 4 * random.choice(50, 5, replace=False)
    effects[first] += 2.0
    effects[first + 1] -= 2.0
    return effects


def test_a_prior_finds_what_the_values_of_parts_do_not_tell():
    without, found = [], []
    for seed in range(10):
        effects, random = opposed(seed), np.random.default_rng(seed)
        prior = np.exp(np.log(np.abs(effects)) + random.normal(scale=0.7, size=200))  # right within a factor of two
        without.append(five_of(additive(effects)))
        found.append(five_of(additive(effects), prior))
    assert np.mean(without) < 3
    assert np.mean(found) >= 4.5


@pytest.mark.parametrize("trust", [0.25, 0.5, 1.0])
def test_a_trusted_prior_is_followed_whatever_it_finds(trust):
    root, effects = tree([], [(at, at + 1) for at in range(200)], NodeLevel.SENTENCE), sources_of_200(0)
    misled = 1 / (np.abs(effects) + 0.01)
    nodes = explain(root, additive(effects), prior=misled, trust=trust, max_evaluations=60)[-1].hierarchy.nodes
    measured = {node.first_feature for node in nodes if node.feature_count == 1}
    first = np.argsort(-misled, kind="stable")[: min(int(60 * trust), 60 - 2 - len(root.children) - 1)]
    assert measured >= set(first.tolist())


@pytest.mark.parametrize("make", [additive, enough])
@pytest.mark.parametrize("kind", ["random", "NaN", "odd", "zeros", "the wrong way round"])
def test_a_prior_that_misleads_is_soon_not_followed(make, kind):
    found, without = [], []
    for seed in range(10):
        effects = sources_of_200(seed)
        sizes = {**priors(200, seed), "the wrong way round": 1 / (np.abs(effects) + 0.01)}[kind]
        found.append(five_of(make(effects), sizes))
        without.append(five_of(make(effects)))
    assert np.mean(found) >= np.mean(without) - 0.5


@pytest.mark.parametrize("kind", ["zeros", "NaN"])
def test_a_prior_that_says_nothing_changes_nothing(kind):
    games = [bumpy(12), bumpy(12)]
    plain, same = (
        explain(deep(12), game, prior=sizes, max_evaluations=11)[-1]
        for game, sizes in zip(games, [None, priors(12, 0)[kind]], strict=True)
    )
    assert same.hierarchy == plain.hierarchy
    assert same.attributions.tolist() == plain.attributions.tolist()
    assert games[0].asked == games[1].asked


def test_without_a_limit_no_evaluation_goes_by_the_prior():
    asked = []
    for sizes in (None, np.ones(81)):
        game = planted(81, {40: 3.0})
        explain(deep(81), game, threshold=0.05, prior=sizes)
        asked.append(game.asked)
    assert asked[0] == asked[1]


@settings(max_examples=60)
@given(root=trees(3, 12), make=st.sampled_from([bumpy, crooked, saturating]), threshold=st.sampled_from([0.05, 0.3, 1]))
def test_no_part_that_is_left_is_worth_the_threshold_of_the_largest_leaf(root, make, threshold):
    nodes = explain(root, make(len(root)), threshold=threshold)[-1].hierarchy.nodes
    largest = max((abs(node.value) for node in nodes if node.feature_count == 1), default=0)
    assert all(abs(node.value) < threshold * largest for node in nodes if node.hidden is not None)


def test_only_what_carries_more_than_the_threshold_is_looked_into():
    game = planted(81, {40: 3.0, 70: 1.0, 3: 0.1})
    found = explain(deep(81), game, threshold=0.05)[-1]
    assert {40, 70} == set(np.flatnonzero(found.standard_errors + (found.attributions < 0.2) == 0))
    assert (found.stop, found.converged) == (StopReason.COMPLETE, True)
    hidden = [node for node in found.hierarchy.nodes if node.hidden is not None]
    assert max(node.hidden for node in hidden) == pytest.approx(0.1)
    assert found.hierarchy.rest_value == pytest.approx(0.1)
    assert game.asked < 2 + 3 * 7 + 2


@settings(max_examples=60)
@given(
    root=trees(3, 20),
    seed=st.integers(0, 999),
    limit=st.integers(6, 16),
    node_value=st.sampled_from(NodeValue),
    prior=st.sampled_from([*priors(1, 0)]),
)
def test_what_a_monotone_game_hides_is_bounded(root, seed, limit, node_value, prior):
    """Where leaving out more never raises the value, and parts do not make up for each other."""
    weights = np.random.default_rng(seed).exponential(size=len(root)) ** 2
    sizes = priors(len(root), seed)[prior]
    explainer = HierarchicalExplainer(root, Hierarchical(node_value, 0.0), Budget(max_evaluations=limit), sizes)
    if explainer.min_evaluations > limit:
        return
    game = additive(weights)
    *_, found = estimates(explainer, game)
    unknown = np.where(np.isinf(found.standard_errors), weights, 0.0)
    for node in found.hierarchy.nodes:
        if node.hidden is not None:
            within = unknown[node.first_feature : node.first_feature + node.feature_count]
            assert within.max() <= node.hidden + 1e-9


@settings(max_examples=60)
@given(root=trees(5, 30), limit=st.integers(8, 30), threshold=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 99))
def test_each_feature_is_measured_or_in_one_part_that_was_not_looked_into(root, limit, threshold, seed):
    weights, prior = np.random.default_rng(seed).normal(size=(2, len(root)))
    game = additive(weights)
    if 2 + len(root.children) > limit:
        return
    found = explain(root, game, threshold=threshold, prior=np.abs(prior), max_evaluations=limit)[-1]
    nodes = found.hierarchy.nodes
    assert [*nodes] == sorted(nodes, key=lambda node: (node.first_feature, -node.feature_count))
    parts = {child: node for node in nodes for child in node.children}
    assert [*range(1, len(nodes))] == sorted(parts)
    measured = np.isfinite(found.standard_errors)
    assert found.attributions[measured] == pytest.approx(weights[measured])
    for node in nodes:
        within = [nodes[child] for child in node.children]
        known = sum(child.feature_count for child in within)
        if node.looked_into:
            assert known == node.feature_count
        elif node.feature_count > 1:
            assert all(child.feature_count == 1 for child in within)
            assert known < node.feature_count
    rest = [node for node in nodes if node.in_rest]
    alone = sum(node.value for node in rest) - sum(nodes[child].value for node in rest for child in node.children)
    assert found.hierarchy.rest_value is None or found.hierarchy.rest_value == pytest.approx(alone)


def test_a_fact_that_stands_twice_is_seen_by_what_is_left_out_together():
    """Leave-one-out sees neither of two sentences that say the same; what it says of the rest must not hide that."""

    def value(present):
        return 5.0 * (present[:, 4] | present[:, 70]) + 1.0 * present[:, 40]

    found = explain(deep(81), ToyGame(81, value), threshold=0.05)[-1]
    assert found.attributions[[4, 70]].tolist() == [0, 0]
    assert found.hierarchy.rest_value == pytest.approx(5.0)
    assert {node.value for node in found.hierarchy.nodes if node.in_rest} == {0.0}
    owen = explain(deep(81), ToyGame(81, value), OWEN, threshold=0.05, max_evaluations=2000)[-1]
    assert owen.attributions[[4, 70]] == pytest.approx([2.5, 2.5], abs=1.2)
    assert owen.hierarchy.rest_value is None


def test_one_part_that_is_left_over_is_not_asked_for_again():
    game = planted(3, {0: 1.0})
    found = explain(shaped([1, [2]]), game, threshold=0.5)[-1]
    assert [node.in_rest for node in found.hierarchy.nodes] == [False, False, True]
    assert found.hierarchy.rest_value == found.hierarchy.nodes[-1].hidden == 0
    assert game.asked == 4


@pytest.mark.parametrize("sizes", [[12], [[7], [5]]], ids=str)
def test_sampled_owen_values_are_off_by_their_errors(sizes):
    root, off = shaped(sizes), []
    exact = owen_by_dividends(root, crooked(12))
    for seed in range(20):
        found = explain(root, crooked(12), OWEN, max_evaluations=300, seed=seed)[-1]
        assert found.stop is StopReason.EVALUATIONS
        known = np.isfinite(found.standard_errors)
        off += ((found.attributions - exact)[known] / found.standard_errors[known]).tolist()
    assert len(off) > 100
    assert 0.4 < np.sqrt(np.mean(np.square(off))) < 1.2  # the mean of all variances makes the small ones larger


def test_sampling_ends_below_the_standard_error():
    found = explain(flat(12), crooked(12), OWEN, max_evaluations=4000, standard_error=0.1)[-1]
    assert found.stop is StopReason.STANDARD_ERROR
    assert found.standard_errors.max() < 0.1
    assert found.converged


def test_the_same_seed_makes_the_same_draws():
    first, again, other = (
        explain(flat(12), crooked(12), OWEN, max_evaluations=200, seed=seed)[-1].attributions.tolist()
        for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("node_value", NodeValue)
@pytest.mark.parametrize("patience", [0, 1, 3, 7, 12, 13, 40])
def test_without_time_the_rest_is_not_looked_into(node_value, patience):
    game = bumpy(12)
    game._patience = patience
    *_, found = explain(deep(12), game, node_value, max_evaluations=4096)
    assert np.isfinite(found.attributions).all()
    if found.stop is StopReason.DURATION:
        assert not found.converged
    if patience < 2:
        assert found.hierarchy is None
        assert np.isinf(found.standard_errors).all()


def test_a_single_feature_is_the_whole_text():
    for node_value in NodeValue:
        found = explain(leaf(0), additive([2.0]), node_value)[-1]
        assert found.attributions.tolist() == [2.0]
        assert [len(node.children) for node in found.hierarchy.nodes] == [0]
        assert (found.stop, found.converged) == (StopReason.COMPLETE, True)


TEXT = "the film was not good .\n\nthe film was very bad !\n\nand the film was good .\n\nyes and no ."


def toy():
    return ToyModel({"good": 2.0, "bad": -1.5, "film": 0.25}, {("not", "good"): -3.0})


def asked(node_value=REMOVAL, threshold=0.0, **parts):
    plain = {"target": YES_RATHER_THAN_NO, "quality": Quality(faithfulness=False)}
    return ExplanationSpec(Prompt(text=TEXT), Hierarchical(node_value, threshold), **(plain | parts))


def last(run):
    *_, update = run
    return update.result


NEED_EMBEDDINGS = (RemovalKind.MEAN_EMBEDDING, *BY_SIMILAR_WORDS)


@pytest.mark.parametrize("kind", [kind for kind in RemovalKind if kind not in NEED_EMBEDDINGS])
@pytest.mark.parametrize("unit", Unit)
def test_leaves_are_occlusions_however_features_are_removed(kind, unit):
    removal = Removal(kind, "very" if kind in (RemovalKind.TEXT, RemovalKind.TEXT_AND_DELETE) else "")
    spec = asked(removal=removal, features=Features(unit))
    found, alone = (last(Run(toy(), each)).attributions for each in (spec, replace(spec, method=Occlusion())))
    assert [each.attribution for each in found] == pytest.approx([each.attribution for each in alone], abs=1e-12)
    assert {each.standard_error for each in found} == {0.0}


def test_nodes_stand_where_their_features_do():
    found = last(Run(toy(), asked()))
    for node in found.hierarchy.nodes:
        first = found.attributions[node.first_feature]
        ending = found.attributions[node.first_feature + node.feature_count - 1]
        assert node.span == (first.span[0], ending.span[1])
    assert [node.level for node in found.hierarchy.nodes][:2] == [NodeLevel.TEXT, NodeLevel.PARAGRAPH]
    assert found.hierarchy.nodes[0].value == pytest.approx(found.full_value - found.base_value)


def test_what_was_not_looked_into_is_said():
    found = last(Run(toy(), asked(budget=Budget(max_evaluations=7))))
    assert found.trust.verdict is not Verdict.TRUSTED
    assert any("not looked into" in reason for reason in found.trust.reasons)
    assert not any("Time ran out" in reason for reason in found.trust.reasons)
    unknown = [each for each in found.attributions if each.standard_error is None]
    assert unknown
    assert all(each.interval is None for each in unknown)


def test_what_makes_up_for_each_other_is_said():
    class EitherWillDo(ToyModel):
        def _sum(self, sequence):
            return 4.0 * any(self._id(word) in sequence for word in ("good", "bad"))

    text = "the film was good .\n\nyes no yes .\n\nthe film was bad .\n\nno yes no ."
    spec = replace(asked(threshold=0.05), prompt=Prompt(text=text), features=Features(Unit.SENTENCE))
    found = last(Run(EitherWillDo({}), spec))
    assert [each.attribution for each in found.attributions] == [0] * 4
    assert found.hierarchy.rest_value == pytest.approx(4.0)
    assert any("some content stands in several parts" in reason for reason in found.trust.reasons)


@pytest.mark.parametrize("budget", [Budget(), Budget(max_evaluations=14)], ids=["all", "limited"])
def test_an_attempt_goes_on_from_a_checkpoint(budget):
    ticks, model, spec = count(), toy(), asked(budget=budget)
    begun = Run(toy(), spec, clock=lambda: next(ticks) * 0.1)
    for update in begun:
        if update.result is not None and update.result.hierarchy is not None:
            break
    again, whole = last(Run(model, spec, begun.checkpoint())), last(Run(toy(), spec))
    assert replace(again, cost=whole.cost) == whole
    assert 0 < len(model.read) < whole.cost.evaluations


def test_more_than_the_budget_is_refused_with_its_reason():
    model = toy()
    with pytest.raises(InputError, match="at least 6 evaluations") as caught:
        prepare(model.tokenizer, model.info, asked(budget=Budget(max_evaluations=3)))
    assert caught.value.field == "budget.max_evaluations"


@pytest.mark.parametrize("text", ["é🦊 漢字。かな。", "مرحبا بالعالم. كيف الحال؟", "a\u200db c\u0301. \n\n d", "."])
@pytest.mark.parametrize("node_value", NodeValue)
def test_texts_of_all_kinds(text, node_value):
    model = toy()
    spec = replace(asked(node_value), prompt=Prompt(text=text), target=Target(Continuation(text="yes")))
    found = last(Run(model, spec))
    assert found.hierarchy.nodes[0].feature_count == len(found.attributions)


def test_levels_of_a_text_with_everything():
    text = "# film\n\nThe film. Was good!\n\nvery bad .\n\n# and\n- yes\n- no\n"
    model = toy()
    found = last(Run(model, replace(asked(), prompt=Prompt(text=text))))
    levels = {(node.level, text[slice(*node.span)]) for node in found.hierarchy.nodes}
    assert (NodeLevel.SECTION, "# film\n\nThe film. Was good!\n\nvery bad .") in levels
    assert (NodeLevel.PARAGRAPH, "The film. Was good!") in levels
    assert (NodeLevel.SENTENCE, "The film.") in levels
    assert (NodeLevel.WORD, "bad") in levels


def test_what_shares_rare_tokens_with_the_target_is_measured_first():
    model = ToyModel({"good": 2.0}, tokenizer=word_tokenizer(context=2048))
    lines = ["the film was bad ."] * 200
    lines[17], lines[90] = "yes , very good .", "no , not good ."
    spec = replace(asked(budget=Budget(max_evaluations=12)), prompt=Prompt(text="\n\n".join(lines)))
    spec = replace(spec, features=Features(Unit.SENTENCE))
    found = last(Run(model, spec))
    measured = [number for number, each in enumerate(found.attributions) if each.standard_error is not None]
    assert {17, 90} <= {*measured}


def test_what_is_known_of_the_rest_does_not_count_twice():
    model = ToyModel({"good": 0.12, "yes": -12.0}, tokenizer=word_tokenizer(context=2048))
    lines = ["the film was good ."] * 200
    lines[17] = lines[90] = "yes ."
    spec = asked(budget=Budget(max_evaluations=12), features=Features(Unit.SENTENCE))
    found = last(Run(model, replace(spec, prompt=Prompt(text="\n\n".join(lines)))))
    assert [found.attributions[number].attribution for number in (17, 90)] == pytest.approx([-12, -12])
    assert found.hierarchy.rest_value > 12
    assert not any("stands in several parts" in reason for reason in found.trust.reasons)


def test_a_prior_of_many_tokens_and_features_is_positive_and_grows_towards_the_end():
    model = ToyModel({}, tokenizer=word_tokenizer(context=2048))
    for text in ("the film . " * 300, "yes " * 700, "yes"):
        spec = replace(asked(), prompt=Prompt(text=text), features=Features(Unit.WORD))
        perturbed = prepare(model.tokenizer, model.info, spec).perturbation
        sizes = prior_of(perturbed, (model.tokenizer.ids("yes")[0],))
        assert sizes.shape == (perturbed.features,)
        assert (sizes > 0).all()
        assert (np.diff(sizes) > 0).all()  # as every feature shares as much


def test_a_flat_text_has_groups():
    model = ToyModel({"good": 2.0}, tokenizer=word_tokenizer(context=2048))
    text = " ".join(["The film was bad."] * 150 + ["The film was good."] + ["The film was bad."] * 49)
    spec = replace(asked(budget=Budget(max_evaluations=30)), prompt=Prompt(text=text), features=Features(Unit.SENTENCE))
    found = last(Run(model, spec))
    assert len(found.attributions) == 200
    assert max(len(node.children) for node in found.hierarchy.nodes if node.looked_into) <= 4
    top = max(found.attributions, key=lambda each: each.attribution)
    assert top.text == "The film was good."
    assert top.attribution == pytest.approx(2.0)
