import math

import numpy as np
import pytest

from ml.explain.trust.faithfulness import FRACTIONS, Plan, evaluate
from tests.unit.ml.explain.toys import additive, conjunction


def measure(game, attributions, tokens=10, seed=0):
    measuring = evaluate(Plan.of(game.features, tokens), game, np.array(attributions, dtype=float), seed)
    while True:
        try:
            next(measuring)
        except StopIteration as done:
            return done.value


def test_eraser_on_an_additive_game():
    effects = [4.0, 3.0, 2.0, 1.0]
    found = measure(additive(effects), effects)
    assert found.fractions == FRACTIONS
    assert found.comprehensiveness.values == pytest.approx([4, 4, 4, 4, 7])
    assert found.comprehensiveness.aopc.value == pytest.approx(23 / 5)
    assert found.sufficiency.values == pytest.approx([6, 6, 6, 6, 3])
    assert found.sufficiency.aopc.value == pytest.approx(27 / 5)
    assert found.random_rankings == 10


def test_areas_on_an_additive_game():
    effects = [4.0, 3.0, 2.0, 1.0]
    found = measure(additive(effects), effects)
    kept = np.array([10, 6, 3, 1, 0]) / 10
    area = ((kept[1:] + kept[:-1]) / 2).mean()
    assert found.deletion_auc.value == pytest.approx(area)
    assert found.insertion_auc.value == pytest.approx(1 - area)
    # A ranking and its reverse have areas that sum to 1 here, so the control is exactly a half.
    assert found.deletion_auc.random == pytest.approx(0.5)
    assert found.insertion_auc.random == pytest.approx(0.5)
    assert found.deletion_auc.random_deviation > 0.05


def test_the_best_ranking_beats_random_ones_and_the_worst_loses():
    effects = np.arange(20.0) ** 2
    best, worst = measure(additive(effects), effects), measure(additive(effects), -effects)
    for found, sign in ((best, 1), (worst, -1)):
        aopc = found.comprehensiveness.aopc
        assert sign * (aopc.value - aopc.random) > 2 * aopc.random_deviation
        assert sign * (found.sufficiency.aopc.random - found.sufficiency.aopc.value) > 0
        assert sign * (found.deletion_auc.random - found.deletion_auc.value) > 0


def test_one_feature_and_no_effect():
    found = measure(additive([2.0]), [2.0])
    assert found.comprehensiveness.values == pytest.approx([2.0] * 5)
    assert found.deletion_auc.value == pytest.approx(0.5)
    nothing = measure(additive([0.0, 0.0]), [0.0, 0.0])
    assert nothing.deletion_auc.value == nothing.insertion_auc.value == 0


@pytest.mark.parametrize("features", [1, 2, 5, 12, 13, 30, 31, 64, 100, 1000, 4096])
def test_cost_is_bounded_and_as_planned(features):
    asked = set()
    game = additive(np.ones(features))
    plan = Plan.of(features, 2000)
    value = game._value

    def counting(coalitions):
        asked.update(row.tobytes() for row in np.packbits(coalitions, axis=1))
        return value(coalitions)

    game._value = counting
    measure(game, np.arange(features), tokens=2000)
    assert game.asked == plan.evaluations
    assert len(asked) <= 120
    assert len(plan.points) <= 20
    assert (np.diff(plan.points) > 0).all()
    assert set(plan.tops) <= set(plan.points)
    assert (plan.points + plan.points[::-1] == features).all()
    assert (plan.points[0], plan.points[-1]) == (0, features)


def test_fractions_are_rounded_up():
    assert Plan.of(30, 10).tops.tolist() == [1, 2, 3, 6, 15]
    assert Plan.of(7, 10).tops.tolist() == [max(1, math.ceil(7 * fraction)) for fraction in FRACTIONS]


def test_rankings():
    plan = Plan.of(5, 10)
    rankings = plan.rankings(np.array([0.1, 3.0, -9.0, 3.0, 0.0]), seed=1)
    assert rankings[0].tolist() == [1, 3, 0, 4, 2]
    assert (np.sort(rankings, axis=1) == np.arange(5)).all()
    assert (rankings[1::2] == rankings[2::2, ::-1]).all()
    assert (rankings == plan.rankings(np.array([0.1, 3.0, -9.0, 3.0, 0.0]), seed=1)).all()


def test_without_time_for_enough_rankings_there_is_nothing():
    plan = Plan.of(6, 10)
    a_ranking = 2 * len(plan.points)
    for patience, rankings in ((a_ranking - 1, None), (3 * a_ranking, None), (4 * a_ranking + 1, 3)):
        game = conjunction(6, 0, 1)
        game._patience = patience
        found = measure(game, [1, 1, 0, 0, 0, 0])
        assert (found and found.random_rankings) == rankings
