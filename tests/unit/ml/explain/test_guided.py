"""Where a method that goes from coarse to fine looks first, with a real model."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest

from ml.explain import Run
from ml.result import StopReason
from ml.spec import (
    Budget,
    Continuation,
    ExplanationSpec,
    Features,
    Hierarchical,
    NodeValue,
    Prompt,
    Quality,
    Rows,
    Target,
    Unit,
)

TEXT = "\n\n".join(f"line {number} has word w{number} in it" for number in range(4))


def asked(**parts) -> ExplanationSpec:
    plain = {"target": Target(Continuation(text=" word w2")), "features": Features(Unit.WORD)}
    plain |= {"budget": Budget(max_evaluations=12), "quality": Quality(faithfulness=False)}
    return ExplanationSpec(Prompt(text=TEXT), parts.pop("method", Hierarchical(threshold=0.0)), **(plain | parts))


@pytest.fixture
def watched(tiny_llama: Path, load_model, monkeypatch: pytest.MonkeyPatch):
    """A model, and a list that grows with each gradient that it is asked for."""
    model, times = load_model(tiny_llama), []
    plain = type(model).key_gradients

    def key_gradients(self, *arguments):
        times.append(arguments)
        return plain(self, *arguments)

    monkeypatch.setattr(type(model), "key_gradients", key_gradients)
    return model, times


def test_a_limited_search_takes_one_gradient_within_its_limit(watched) -> None:
    model, times = watched
    *_, update = Run(model, asked())
    assert len(times) == 1
    assert update.result.cost.evaluations <= 12
    assert np.isfinite([each.attribution for each in update.result.attributions]).all()


@pytest.mark.parametrize(
    "parts",
    [
        {"budget": Budget(max_evaluations=500)},
        {"budget": Budget()},
        {"method": Hierarchical(NodeValue.OWEN, 0.0), "budget": Budget(max_evaluations=200)},
    ],
)
def test_no_gradient_is_taken_where_the_order_makes_no_difference(watched, parts) -> None:
    model, times = watched
    *_, update = Run(model, asked(**parts))
    assert update.result is not None
    assert not times


def test_an_attempt_that_goes_on_knows_the_gradient(watched) -> None:
    model, times = watched
    ticks = count()
    begun = Run(model, asked(), clock=lambda: next(ticks) * 0.1)
    for update in begun:
        if update.result is not None and update.result.hierarchy is not None:
            break
    *_, again = Run(model, asked(), begun.checkpoint())
    *_, whole = Run(model, asked())
    assert len(times) == 2  # of the first attempt, and of the other explanation
    assert again.result.attributions == whole.result.attributions


@pytest.mark.parametrize("limit", range(8, 20))
def test_an_attempt_goes_on_as_it_began_where_there_was_no_gradient(watched, monkeypatch, limit: int) -> None:
    model, _ = watched
    budget = Budget(max_evaluations=limit)
    with monkeypatch.context() as scarce:
        scarce.setattr(type(model), "key_gradients", lambda *_: None)
        begun = Run(model, asked(budget=budget))
        *_, whole = begun
    *_, again = Run(model, asked(budget=budget), begun.checkpoint())
    assert again.result.attributions == whole.result.attributions
    assert again.result.cost.evaluations == whole.result.cost.evaluations <= limit


def test_a_gradient_that_is_no_number_leaves_the_prior(watched, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = watched
    plain = type(model).key_gradients
    found = []
    for broken in (np.nan, np.inf, 0.0):
        with monkeypatch.context() as patched:
            patched.setattr(type(model), "key_gradients", lambda *each, by=broken: plain(*each) * 0 + by)
            *_, update = Run(model, asked())
        found.append(update.result.attributions)
    assert found[0] == found[1] == found[2]


class Watch:
    """A clock that only the model's work moves: a second for each token, and three more for each of a gradient."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model) -> None:
        self.now, self.tokens_of_gradients = 0.0, []
        read, gradients = type(model).stream_log_probabilities, type(model).key_gradients

        def stream_log_probabilities(model, *arguments, **named):
            for found in read(model, *arguments, **named):
                self.now += found.tokens_computed
                yield found

        def key_gradients(model, ids, objective, numbers=(0,)):
            self.now += len(ids) * (1 + 3 * len(numbers))
            self.tokens_of_gradients.append(len(ids))
            return gradients(model, ids, objective, numbers)

        monkeypatch.setattr(type(model), "stream_log_probabilities", stream_log_probabilities)
        monkeypatch.setattr(type(model), "key_gradients", key_gradients)

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("rows", [None, Rows(Unit.TOKEN)])
@pytest.mark.parametrize("seconds", [1, 100, 200, 300, 500, 800, 1200, 2000, 5000, 1e6])
def test_no_gradient_is_begun_that_would_take_most_of_the_time(
    tiny_llama, load_model, monkeypatch, seconds, rows
) -> None:
    model = load_model(tiny_llama)
    clock = Watch(monkeypatch, model)
    budget = Budget(max_evaluations=16, max_duration=seconds)
    *_, update = Run(model, asked(budget=budget, rows=rows), clock=clock)
    found = update.result
    assert np.isfinite([each.attribution for each in found.attributions]).all()
    whole = len(found.tokens) + len(found.target.tokens)
    assert clock.now <= max(seconds, 2 * whole) + 4 * whole  # the ends, and a chunk that was begun in time
    if seconds <= 300:
        assert not clock.tokens_of_gradients
    if seconds >= 5000:
        assert len(clock.tokens_of_gradients) == 1


@pytest.mark.parametrize("seconds", [300, 5000])
def test_an_attempt_goes_on_as_it_began_however_much_time_is_left(tiny_llama, load_model, monkeypatch, seconds) -> None:
    model = load_model(tiny_llama)
    clock = Watch(monkeypatch, model)
    first = Run(model, asked(budget=Budget(max_evaluations=16, max_duration=seconds)), clock=clock)
    *_, whole = first
    spent = clock.now
    *_, again = Run(model, asked(budget=Budget(max_evaluations=16, max_duration=1e6)), first.checkpoint(), clock=clock)
    assert len(clock.tokens_of_gradients) == (seconds > 300)
    if whole.result.cost.stop_reason is not StopReason.DURATION:
        assert again.result.attributions == whole.result.attributions
        assert clock.now == spent


def test_rows_have_gradients_of_their_own_where_these_take_few_of_the_evaluations(
    tiny_llama, load_model, monkeypatch
) -> None:
    model = load_model(tiny_llama)
    numbers = []
    plain = type(model).key_gradients

    def key_gradients(self, ids, objective, asked_for=(0,)):
        numbers.append([*asked_for])
        return plain(self, ids, objective, asked_for)

    monkeypatch.setattr(type(model), "key_gradients", key_gradients)
    for limit in (10, 26):
        *_, update = Run(model, asked(budget=Budget(max_evaluations=limit), rows=Rows(Unit.WORD)))
        assert update.result.cost.evaluations <= limit
        assert len(update.result.rows) == 2
    few, many = numbers
    assert few == [0] or len(few) == 1
    assert many == [1, 2]
