"""Rows: a target's parts have attributions of their own, from the evaluations that the whole one takes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import count

import numpy as np
import pytest

from ml.errors import InputError
from ml.explain import Run, prepare
from ml.explain.values.cache import ValueCache
from ml.result import StopReason
from ml.spec import (
    AttentionRollout,
    Budget,
    ContextAttribution,
    Continuation,
    ContrastTarget,
    Estimator,
    ExplanationSpec,
    GenerationTarget,
    Hierarchical,
    IntegratedGradients,
    Interactions,
    KernelShap,
    Lime,
    NextTokenTarget,
    NodeValue,
    Occlusion,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    Rows,
    Scale,
    ShapleyPermutation,
    SurrogateKind,
    Target,
    Unit,
    ValueZeroing,
)
from schema.convert import EXPLANATION_RESULT
from tests.unit.ml.explain.toys import ToyModel, word_tokenizer

TEXT = "the film was not good and the film was bad"
ANSWER = Target(Continuation(text="yes the good . no good !"))
EXACT = Budget(max_evaluations=2000)  # of all coalitions of ten features
SAMPLED = Budget(max_evaluations=100)
LINEAR = {
    "occlusion": (Occlusion(), EXACT),
    "windows": (Occlusion(window=3, stride=2), EXACT),
    "LIME": (Lime(), SAMPLED),
    "LIME, few": (Lime(), Budget(max_evaluations=16)),
    "LIME, textbook": (Lime(estimator=Estimator.TEXTBOOK), SAMPLED),
    "LIME, exact": (Lime(), EXACT),
    "KernelSHAP": (KernelShap(), SAMPLED),
    "KernelSHAP, few": (KernelShap(), Budget(max_evaluations=12)),
    "KernelSHAP, textbook": (KernelShap(Estimator.TEXTBOOK), SAMPLED),
    "KernelSHAP, exact": (KernelShap(), EXACT),
    "permutations": (ShapleyPermutation(), SAMPLED),
    "interactions": (Interactions(), SAMPLED),
    "interactions, exact": (Interactions(), EXACT),
    "hierarchical": (Hierarchical(threshold=0.0), EXACT),
    "hierarchical, Owen values": (Hierarchical(NodeValue.OWEN, threshold=0.0), EXACT),
}
REFITTED = {
    "lasso": (Lime(SurrogateKind.LASSO), SAMPLED),
    "lasso, exact": (Lime(SurrogateKind.LASSO), EXACT),
    "tree": (Lime(SurrogateKind.DECISION_TREE), SAMPLED),
    "context": (ContextAttribution(), SAMPLED),
    "context, exact": (ContextAttribution(), EXACT),
}

UNLIKE = ("occlusion", "LIME", "interactions", "lasso")
"""Ways whose rows hold unlike numbers: without errors, with them, of pairs, of a surrogate."""


def toy(**parts):
    return ToyModel({"good": 2.0, "bad": -1.5, "film": 0.25}, {("not", "good"): -3.0}, **parts)


def spec(method=None, **parts):
    plain = {"target": ANSWER, "rows": Rows(Unit.WORD), "quality": Quality(False)}
    return ExplanationSpec(Prompt(text=TEXT), method or Occlusion(), **(plain | parts))


def last(run):
    *_, update = run
    return update.result


def at_once(asked):
    """The result of an explanation that evaluates all coalitions together, and so makes one estimate."""
    return last(Run(toy(device="cuda"), asked))


@cache
def by_words(way):
    """What a way finds of `ANSWER`, with a row for each word."""
    method, budget = (LINEAR | REFITTED)[way]
    return at_once(spec(method, budget=budget))


def whole(result):
    return np.array([each.attribution for each in result.attributions])


def each_row(result, numbers="attributions"):
    return np.array([getattr(row, numbers) for row in result.rows])


def timeless(result):
    return replace(result, cost=replace(result.cost, duration=0.0))


@pytest.mark.parametrize("way", LINEAR)
def test_rows_of_linear_methods_sum_to_the_whole(way):
    result = by_words(way)
    assert [row.text for row in result.rows] == ["yes", "the", "good", ".", "no", "good", "!"]
    assert np.ptp(whole(result)) > 0.1
    assert each_row(result).sum(axis=0) == pytest.approx(whole(result), abs=1e-9)
    assert sum(row.full_value for row in result.rows) == pytest.approx(result.full_value, abs=1e-12)
    assert sum(row.base_value for row in result.rows) == pytest.approx(result.base_value, abs=1e-12)
    sampled = any(each.standard_error for each in result.attributions)
    assert all(bool(row.standard_errors) == sampled for row in result.rows)


@pytest.mark.parametrize("way", [*LINEAR, *REFITTED])
def test_rows_take_no_evaluation_and_change_nothing(way):
    method, budget = (LINEAR | REFITTED)[way]
    beside = by_words(way)
    alone = at_once(spec(method, budget=budget, rows=None))
    assert beside.rows
    assert timeless(replace(beside, rows=())) == timeless(alone)


@pytest.mark.parametrize("way", [*LINEAR, *REFITTED])
def test_a_row_of_everything_is_the_whole(way):
    method, budget = (LINEAR | REFITTED)[way]
    asked = spec(method, budget=budget, rows=Rows(spans=((0, 25),), pairs=isinstance(method, Interactions)))
    result = at_once(asked)
    [row] = result.rows
    errors = [each.standard_error for each in result.attributions]
    assert row.positions == tuple(range(7))
    assert row.attributions == pytest.approx(whole(result), abs=1e-9)
    assert (row.standard_errors or (0.0,) * 10) == pytest.approx(errors, abs=1e-9)
    for attribution, error, each in zip(row.attributions, errors, result.attributions, strict=True):
        assert attribution + row.interval_reach * error == pytest.approx(each.interval.upper, abs=1e-9)
    assert row.interactions == pytest.approx([pair.value for pair in result.interactions], abs=1e-9)
    if result.surrogate is not None:
        assert row.r_squared == pytest.approx(result.surrogate.r_squared, abs=1e-9)


@pytest.mark.parametrize("way", [*LINEAR, *REFITTED])
def test_the_first_row_is_the_explanation_of_its_text_alone(way):
    """But for what control variates are fitted to, which is the whole."""
    method, budget = (LINEAR | REFITTED)[way]
    row = by_words(way).rows[0]
    alone = at_once(spec(method, budget=budget, target=Target(Continuation(text="yes")), rows=None))
    assert (row.base_value, row.full_value) == pytest.approx((alone.base_value, alone.full_value))
    errors = np.array([each.standard_error for each in alone.attributions])
    if way in {"LIME", "KernelSHAP", "interactions"}:
        assert (np.abs(np.array(row.attributions) - whole(alone)) < 4 * (errors + row.standard_errors) + 1e-6).all()
        return
    assert row.attributions == pytest.approx(whole(alone), abs=1e-9)
    assert (row.standard_errors or (0.0,) * 10) == pytest.approx(errors, abs=1e-9)


def test_rows_of_pairs_sum_to_the_pairs():
    for budget in (SAMPLED, EXACT):
        result = at_once(spec(Interactions(), budget=budget, rows=Rows(Unit.WORD, pairs=True)))
        pairs = [pair.value for pair in result.interactions]
        assert each_row(result, "interactions").sum(axis=0) == pytest.approx(pairs, abs=1e-9)
        assert np.abs(pairs).max() > 0.1
        assert all(len(row.interaction_standard_errors) in (0, len(pairs)) for row in result.rows)
        assert any("interactions of rows" in reason for reason in result.trust.reasons) is (budget is SAMPLED)


def test_rows_on_the_scale_of_probabilities():
    result = last(Run(toy(), spec(target=replace(ANSWER, scale=Scale.PROBABILITY))))
    logarithms = last(Run(toy(), spec()))
    assert np.prod([row.full_value for row in result.rows]) == pytest.approx(result.full_value)
    for row, other in zip(result.rows, logarithms.rows, strict=True):
        assert np.log([row.base_value, row.full_value]) == pytest.approx([other.base_value, other.full_value])


def test_the_mean_of_two_removals_has_rows_too():
    asked = spec(removal=Removal(RemovalKind.TEXT_AND_DELETE, "very"))
    result = last(Run(toy(), asked))
    alone = last(Run(toy(), replace(asked, rows=None)))
    assert result.cost.evaluations == alone.cost.evaluations
    assert each_row(result).sum(axis=0) == pytest.approx(whole(result), abs=1e-12)
    assert whole(result) == pytest.approx(whole(alone), abs=1e-12)


def test_a_generation_has_rows():
    model = ToyModel({"good": 2.0, "bad": -0.5, "yes": 0.5})
    result = last(Run(model, spec(target=Target(GenerationTarget(3)), rows=Rows())))
    assert [row.positions for row in result.rows] == [(0,), (1,), (2,)]
    assert result.target.text.strip() == " ".join(token.text for token in result.target.tokens)
    assert each_row(result).sum(axis=0) == pytest.approx(whole(result), abs=1e-9)


def test_methods_that_evaluate_prompts_plan_no_more_for_rows():
    for method in (Occlusion(), Lime(), KernelShap(), Interactions()):
        asked, model = spec(method), toy()
        plans = [
            prepare(model.tokenizer, model.info, each).max_evaluations for each in (asked, replace(asked, rows=None))
        ]
        assert plans[0] == plans[1]


@pytest.mark.parametrize(
    ("parts", "field", "message"),
    [
        ({"target": Target(NextTokenTarget(text="yes"))}, "rows", "a continuation or a generation"),
        (
            {"target": Target(ContrastTarget(Continuation(text="yes"), Continuation(text="no")))},
            "rows",
            "a continuation or a generation",
        ),
        ({"method": AttentionRollout()}, "rows", "choose another"),
        ({"method": ValueZeroing()}, "rows", "choose another"),
        ({"rows": Rows(pairs=True)}, "rows.pairs", "only interactions have rows of pairs"),
        ({"rows": Rows(spans=((0, 3), (90, 99)))}, "rows.spans[1]", "leaves the text"),
        ({"target": Target(GenerationTarget(5000))}, "rows", "5,000 rows and at most 4,096"),
        (
            {"method": IntegratedGradients(), "budget": Budget(max_evaluations=50)},
            "budget.max_evaluations",
            "51 evaluations for these 10 features and 7 rows",
        ),
    ],
)
def test_what_has_no_rows_is_refused_before_anything_is_computed(parts, field, message):
    model = toy(tokenizer=word_tokenizer(context=10_000))
    model.info = replace(model.info, heads=1)
    with pytest.raises(InputError, match=message) as caught:
        prepare(model.tokenizer, model.info, spec(**parts))
    assert caught.value.field == field


def test_a_span_that_a_generation_does_not_reach_fails_the_explanation():
    with pytest.raises(InputError, match="leaves the text") as caught:
        last(Run(toy(), spec(target=Target(GenerationTarget(1)), rows=Rows(spans=((50, 60),)))))
    assert caught.value.field == "rows.spans[0]"


@pytest.mark.parametrize(
    ("way", "unit"),
    [
        *((way, Unit.WORD) for way in (LINEAR | REFITTED)),
        *((way, unit) for way in UNLIKE for unit in (Unit.TOKEN, Unit.SENTENCE)),
    ],
)
def test_the_bytes_of_rows_are_known_before(way, unit):
    method, budget = (LINEAR | REFITTED)[way]
    for pairs in (False, True)[: 1 + isinstance(method, Interactions)]:
        asked = spec(method, budget=budget, rows=Rows(unit, pairs=pairs))
        run = Run(toy(device="cuda"), asked)
        result = by_words(way) if asked.rows == Rows(Unit.WORD) else last(run)
        without, beside = (EXPLANATION_RESULT.write(each).ByteSize() for each in (replace(result, rows=()), result))
        assert beside - without <= run.problem.row_bytes
        assert run.problem.row_bytes <= 3 * (beside - without) + 200 * len(result.rows)


def test_an_explanation_without_rows_has_no_bytes_of_them():
    assert Run(toy(), spec(rows=None)).problem.row_bytes == 0


@pytest.mark.parametrize("way", ["LIME", "KernelSHAP", "permutations", "lasso", "interactions"])
def test_rows_survive_an_interruption(way):
    method, budget = (LINEAR | REFITTED)[way]
    model = toy(parameters=3_000_000_000)  # a chunk of which has few prompts
    asked = spec(method, budget=budget, rows=Rows(Unit.WORD, pairs=isinstance(method, Interactions)))
    undisturbed = last(Run(model, asked))
    first = Run(model, asked, clock=ticking(0.02))
    for update in first:
        if update.progress.evaluations_done >= 30:
            break
    saved = first.checkpoint()
    read = len(model.read)
    resumed = last(Run(model, asked, saved))
    assert len(model.read) - read < undisturbed.cost.evaluations
    assert timeless(resumed) == timeless(undisturbed)


def test_a_checkpoint_without_rows_is_no_start_for_rows():
    plain, asked = spec(Lime(), budget=SAMPLED, rows=None), spec(Lime(), budget=SAMPLED)
    run = Run(toy(), plain)
    last(run)
    model = toy()
    assert timeless(last(Run(model, asked, run.checkpoint()))) == timeless(last(Run(toy(), asked)))
    assert model.read


def test_rows_come_from_the_cache():
    cache = ValueCache()
    first = last(Run(toy(), spec(KernelShap(), budget=SAMPLED), cache=cache))
    again = last(Run(toy(), spec(KernelShap(), budget=SAMPLED), cache=cache))
    assert again.cost.evaluations == 0
    assert replace(again, cost=first.cost) == first


def partial_results(clock):
    run = Run(toy(), spec(KernelShap(), budget=Budget(max_evaluations=400)), clock=clock)
    return [update.result for update in run if update.result is not None and update.result.trust is None]


def ticking(seconds):
    ticks = count()
    return lambda: next(ticks) * seconds


def test_partial_results_have_rows_which_take_a_share_of_the_time(monkeypatch):
    seldom = partial_results(ticking(0.05))
    monkeypatch.setattr("ml.explain.work._PARTIAL_SHARE", 1e9)
    often = partial_results(ticking(0.05))
    assert 0 < len(seldom) < len(often)
    for result in often:
        assert [row.text for row in result.rows] == ["yes", "the", "good", ".", "no", "good", "!"]
        assert each_row(result).sum(axis=0) == pytest.approx(whole(result), abs=1e-9)


def test_an_early_partial_result_has_no_rows_that_take_long(monkeypatch):
    early, *_ = partial_results(ticking(0.05))
    assert early.rows == ()
    assert whole(early).any()
    monkeypatch.setattr("ml.explain.work._PARTIAL_SHARE", 1e9)
    early, *_ = partial_results(ticking(0.05))
    assert len(early.rows) == 7


def test_what_time_left_out_is_unknown_in_every_row(monkeypatch):
    monkeypatch.setattr("ml.explain.values.evaluation.chunk_tokens", lambda _: 40)  # two prompts
    result = last(Run(toy(), spec(budget=Budget(max_duration=1.0)), clock=ticking(0.1)))
    assert result.cost.stop_reason is StopReason.DURATION
    unknown = [each.standard_error is None for each in result.attributions]
    assert any(unknown)
    for row in result.rows:
        assert [np.isinf(error) for error in row.standard_errors] == unknown


def test_what_has_a_share_of_a_part_is_unknown_in_every_row():
    """The search ends at parts of the text: their words have equal shares, of which no error is known."""
    result = last(Run(toy(), spec(Hierarchical(threshold=0.0), budget=Budget(max_evaluations=9))))
    unknown = [each.standard_error is None for each in result.attributions]
    assert {*unknown} == {True, False}
    for row in result.rows:
        assert [error == np.inf for error in row.standard_errors] == unknown
        assert np.isfinite(row.attributions).all()
