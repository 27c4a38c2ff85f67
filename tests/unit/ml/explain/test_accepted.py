"""Whatever spec is accepted ends in finite numbers, or in an error that names the field: specs of every kind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from itertools import count, pairwise
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ml import spec
from ml.errors import CapabilityError, InputError
from ml.explain import Run
from ml.result import ExplanationResult
from ml.spec import Continuation, ExplanationSpec, Prompt, RemovalKind, Scale, Target
from ml.spec.checks import Range, ranges
from tests.unit.ml.explain.toys import ToyModel

LARGEST = 2**31 - 1
"""Of a whole number whose range has no end: the contract's."""

WORDS = ["The", "capital", "of", "France", "is", "Paris", "the", "film", "was", "good", "not", ".", ",", "\n"]
ODD = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
SHORT = st.text(st.sampled_from(" \t\n a.é🦊\u200d\u0301\u202e\ufeff漢") | ODD, min_size=1, max_size=12)
LISTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5)
TEXTS = st.one_of(LISTS.map(" ".join), SHORT, st.lists(st.sampled_from(WORDS), min_size=20, max_size=40).map(" ".join))
IDS = st.lists(st.integers(0, 13) | st.integers(0, 150), min_size=1, max_size=8).map(tuple)


def in_range(allowed: Range, *, whole: bool) -> st.SearchStrategy[Any]:
    """Numbers of a range: its ends, what is near the lower one, any, and any order of magnitude."""
    if whole:
        low, high = int(allowed.low), LARGEST if allowed.high is None else int(allowed.high)
        return st.sampled_from([low, high]) | st.integers(low, min(low + 8, high)) | st.integers(low, high)
    assert allowed.high is not None
    low, high = float(allowed.low), float(allowed.high)
    any_one = st.floats(low, high, exclude_min=allowed.open, exclude_max=allowed.open)
    ends = [] if allowed.open else [low, high]
    # Of each order of magnitude: nearly all floats between 0.01 and a million are above 1,000.
    scaled = st.floats(math.log(max(low, 1e-12)), math.log(high)).map(
        lambda power: min(max(low, math.exp(power)), high)
    )
    return st.sampled_from([*ends, math.sqrt(max(low, 1e-12) * high)]) | any_one | scaled.filter(allowed.__contains__)


def valued(kind: type, name: str, hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field of a dataclass, by its declaration."""
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    kinds = set(get_args(inner) or [inner])
    optional = st.none() if type(None) in kinds else st.nothing()
    [one] = kinds - {type(None)}
    if isinstance(one, type) and issubclass(one, Enum):
        return optional | st.sampled_from(one)
    return optional | in_range(ranges(kind)[name], whole=one is int)


def declared(kind: type) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of a dataclass all of whose fields are enums or numbers with a range."""
    hints = get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    return st.fixed_dictionaries({each.name: valued(kind, each.name, hints[each.name]) for each in fields})


METHODS = st.one_of(
    *(st.tuples(st.just(kind), declared(kind) if ranges(kind) else st.just({})) for kind in get_args(spec.Method))
)
CONTINUATIONS = st.one_of(
    SHORT.map(lambda text: Continuation(text=text)),
    st.sampled_from([" Paris", " Paris is", "yes"]).map(lambda text: Continuation(text=text)),
    IDS.map(lambda ids: Continuation(token_ids=ids)),
    IDS.map(lambda ids: Continuation(token_ids=(ids * 20)[:20])),
)
KINDS = st.one_of(
    st.just(spec.NextTokenTarget()),
    SHORT.map(lambda text: spec.NextTokenTarget(text=text)),
    st.integers(0, 150).map(lambda one: spec.NextTokenTarget(id=one)),
    CONTINUATIONS,
    st.sampled_from([1, 3, 16, LARGEST]).map(spec.GenerationTarget),
    st.builds(spec.ContrastTarget, CONTINUATIONS, CONTINUATIONS),
)


@st.composite
def some_features(draw: st.DrawFn, length: int) -> spec.Features:
    """Units, units in a part of the prompt, or spans."""
    edges = sorted(draw(st.sets(st.integers(0, length), min_size=2, max_size=8)))
    match draw(st.sampled_from(["unit", "unit", "within", "spans"])):
        case "spans":
            return spec.Features(spans=tuple(pairwise(edges))[:: draw(st.integers(1, 2))])
        case "within":
            return spec.Features(draw(st.sampled_from(spec.Unit)), within=(edges[0], edges[-1]))
        case _:
            return spec.Features(draw(st.none() | st.sampled_from(spec.Unit)))


@st.composite
def some_rows(draw: st.DrawFn) -> spec.Rows:
    """Units of the target, or spans, of which many do not fit it."""
    edges = sorted(draw(st.sets(st.integers(0, 8), min_size=2, max_size=4)))
    given = draw(st.booleans())
    spans = tuple(pairwise(edges)) if given else ()
    return spec.Rows(None if given else draw(st.none() | st.sampled_from(spec.Unit)), spans, draw(st.booleans()))


@st.composite
def budgets(draw: st.DrawFn) -> spec.Budget:
    """Small ones, or ones that time ends: the clock of these tests goes on by a second at each look."""
    duration = draw(st.none() | st.sampled_from([1e-9, 1.0, 5.0, 20.0, 1e9]))
    ends = duration is not None and duration < 1e9
    few = st.sampled_from([2, 3]) | st.integers(2, 80)
    return spec.Budget(
        max_evaluations=draw(few | st.sampled_from([None, 10_000_000])) if ends else draw(few),
        max_duration=duration,
        standard_error=draw(st.none() | in_range(ranges(spec.Budget)["standard_error"], whole=False)),
        seed=draw(st.sampled_from([0, 1, 2**64 - 1])),
    )


@st.composite
def specs(draw: st.DrawFn) -> ExplanationSpec:
    """Specs that can be made; whether a model accepts them is another matter."""
    try:
        kind, arguments = draw(METHODS)
        prompt = draw(TEXTS.map(lambda text: Prompt(text=text)) | IDS.map(lambda ids: Prompt(token_ids=ids)))
        removal = draw(st.none() | st.sampled_from(RemovalKind))
        replacement = draw(SHORT) if removal is RemovalKind.TEXT else ""
        return ExplanationSpec(
            prompt=prompt,
            method=kind(**arguments),
            target=Target(draw(KINDS), draw(st.sampled_from(Scale))),
            features=draw(some_features(max(2, len(prompt.text or "0123456")))),
            removal=spec.Removal(removal, replacement),
            budget=draw(budgets()),
            quality=spec.Quality(draw(st.booleans())),
            precision=draw(st.sampled_from(spec.PrecisionPolicy)),
            rows=draw(st.none() | some_rows()),
        )
    except InputError as error:
        assert error.field  # noqa: PT017 - such as a stride above the window
        assume(False)
        raise


def toy() -> ToyModel:
    """One whose probabilities are as close to 0 and 1 as can be told apart, and closer."""
    return ToyModel({"good": 2.0, "film": 300.0, "was": -900.0}, {("not", "good"): -3.0})


def numbers(part: object) -> Iterator[float]:
    """All of them, in a dataclass of dataclasses and tuples."""
    if isinstance(part, float):
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from numbers(each)
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            yield from numbers(getattr(part, field.name))


def check_rows(result: ExplanationResult) -> None:
    """Look at the rows: numbers, and errors that are unknown exactly where those of the target's attributions are."""
    unknown = [each.standard_error is None for each in result.attributions]
    unknown_pairs = [each.standard_error is None for each in result.interactions]
    for row in result.rows:
        known = replace(row, standard_errors=(), interaction_standard_errors=())
        assert all(map(math.isfinite, numbers(known)))
        assert [each == math.inf for each in row.standard_errors or (0.0,) * len(unknown)] == unknown
        if row.interactions:
            errors = row.interaction_standard_errors or (0.0,) * len(unknown_pairs)
            assert [each == math.inf for each in errors] == unknown_pairs


def check(model: Any, asked: ExplanationSpec) -> None:
    """Explain, and look at all that is told on the way."""
    ticks = count()
    try:
        run = Run(model, asked, clock=lambda: float(next(ticks)))
    except InputError as error:
        assert error.field  # noqa: PT017 - many are refused
        return
    except CapabilityError:
        return
    try:
        updates = list(run)
    except CapabilityError:
        assert isinstance(model, ToyModel)
        return
    except InputError as error:  # what is generated is known only then, and a span may leave it
        assert isinstance(asked.target.kind, spec.GenerationTarget | spec.NextTokenTarget)
        assert error.field.startswith("rows.spans")  # noqa: PT017
        return
    for update in updates:
        found = update.result
        rest = replace(found, rows=()) if isinstance(found, ExplanationResult) else None
        assert all(map(math.isfinite, numbers(replace(update, result=rest))))
        if isinstance(found, ExplanationResult):
            check_rows(found)
    result = updates[-1].result
    assert isinstance(result, ExplanationResult)
    assert len(result.attributions) == len(run.problem.features) > 0
    assert result.cost.stop_reason is not None
    assert run.problem.max_evaluations >= result.cost.evaluations


QUICK = settings(max_examples=40, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=3000, suppress_health_check=list(HealthCheck))


@QUICK
@given(asked=specs())
def test_a_toy_gives_numbers_or_names_the_field(asked: ExplanationSpec) -> None:
    check(toy(), asked)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_lstm"])
@QUICK
@given(asked=specs())
def test_a_real_model_gives_numbers_or_names_the_field(asked, name, request, load_model) -> None:
    check(load_model(request.getfixturevalue(name)), asked)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["toy", "tiny_llama", "tiny_lstm"])
@LONG
@given(asked=specs())
def test_thousands_of_specs(asked, name, request, load_model) -> None:
    check(toy() if name == "toy" else load_model(request.getfixturevalue(name)), asked)
