"""No result holds something that is not a number, whatever was asked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gloss import durations
from gloss import v1 as pb
from ml.errors import GlossError, InputError
from ml.explain import Run, numbers, start
from ml.result import Attribution
from schema import convert
from tests.unit.ml.explain.toys import ToyModel

WORDS = st.sampled_from(["The", "capital", "of", "France", "is", "Paris", "and", "Rome", "."])
TEXTS = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)
ODD = st.sampled_from([math.nan, math.inf, -1.0, 0.0, 5e-324, 1e-200, 1e155, 1e306])


def number(least, limit):
    """Mostly one of a field's range, and often its ends; the others are refused."""
    within = st.floats(least, limit)
    return st.none() | within | within | st.sampled_from([least, limit]) | ODD


COUNTS = st.integers(1, 3) | st.integers(-1, 9) | st.sampled_from([-(2**31), 2**31 - 1])
LISTS = st.lists(TEXTS.map(lambda text: pb.Prompt(text=text)), min_size=20, max_size=24)
GROUPS = st.lists(st.tuples(WORDS, WORDS), min_size=2, max_size=3, unique=True)
EMPTY = [
    "shapley_permutation",
    "input_times_gradient",
    "attention_rollout",
    "value_zeroing",
    "interactions",
]


def optional(strategy):
    return st.none() | strategy


def message(kind, **parts):
    return st.builds(kind, **parts)


METHODS = st.one_of(
    message(pb.Occlusion, window=optional(COUNTS), stride=optional(COUNTS)).map(lambda method: {"occlusion": method}),
    message(
        pb.Lime,
        surrogate=st.sampled_from([1, 2, 3]),
        alpha=number(0, 1e9),
        kernel_width=number(0.01, 1e6),
        max_depth=optional(st.integers(1, 8) | st.integers(0, 9)),
        estimator=st.sampled_from([1, 2]),
    ).map(lambda method: {"lime": method}),
    message(pb.KernelShap, estimator=st.sampled_from([1, 2])).map(lambda method: {"kernel_shap": method}),
    message(pb.IntegratedGradients, steps=st.integers(1, 9) | st.integers(0, 1001)).map(
        lambda method: {"integrated_gradients": method}
    ),
    message(pb.ContextAttribution, alpha=number(0, 1e9)).map(lambda method: {"context_attribution": method}),
    message(pb.Hierarchical, node_value=st.sampled_from([1, 2]), threshold=number(0, 1)).map(
        lambda method: {"hierarchical": method}
    ),
    st.sampled_from(EMPTY).map(lambda name: {name: getattr(pb, name.title().replace("_", ""))()}),
)
STUDIES = st.one_of(
    message(
        pb.GlobalSurrogate,
        prompts=LISTS,
        surrogate=st.sampled_from([1, 3]),
        held_out=number(1e-9, 1 - 1e-9),
        max_depth=optional(st.integers(1, 8) | st.integers(0, 9)),
    ).map(lambda method: {"global_surrogate": method}),
    GROUPS.map(
        lambda groups: {
            "bias_probe": pb.BiasProbe(
                templates=["{} is the capital"],
                groups=[pb.SwapSet(label=str(place), words=words) for place, words in enumerate(groups)],
            )
        }
    ),
)
UNLIKELY = pb.Target(
    continuation=pb.Continuation(token_ids=pb.TokenIds(ids=[5, 9, 40, 7, 3, 60, 21, 33] * 12)),
    scale=pb.TARGET_SCALE_PROBABILITY,
)
"""Of a probability that hardly is a number any more."""


@st.composite
def questions(draw):
    studied = draw(st.integers(0, 3)) == 0
    budget = pb.Budget(
        max_evaluations=draw(st.integers(20, 70) | st.integers(1, 70)), seed=draw(st.integers(0, 2**64 - 1))
    )
    duration = draw(st.none() | st.sampled_from([1e-9, 1e9, 0.0, -1.0]) | st.floats(0, 1e9))
    if duration is not None:
        budget.max_duration.CopyFrom(durations.duration(duration))
    error = draw(number(1e-9, 1e9))
    if error is not None and (not studied or draw(st.integers(0, 9)) == 0):
        budget.standard_error = error
    target = draw(st.sampled_from([pb.Target(), pb.Target(scale=pb.TARGET_SCALE_PROBABILITY), UNLIKELY]))
    if studied:
        return pb.StudySpec(target=target, budget=budget, **draw(STUDIES))
    return pb.ExplanationSpec(
        prompt=pb.Prompt(text=draw(TEXTS)),
        target=target,
        budget=budget,
        quality=pb.Quality(faithfulness=draw(st.booleans())),
        **draw(METHODS),
    )


def doubles(found):
    for field, value in found.ListFields():
        many = value if field.is_repeated else [value]
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in many:
                yield from doubles(each)
        elif field.type == FieldDescriptor.TYPE_DOUBLE:
            yield from ((field.name, each) for each in many)


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(asked=questions())
def test_numbers_or_an_error_that_names_the_field(asked, tiny_llama, load_model):
    try:
        run = start(load_model(tiny_llama), convert.to_question(asked))
    except InputError as error:
        assert error.field  # noqa: PT017 - many are no mistakes
        return
    *_, last = run
    for name, number in doubles(convert.from_result(last.result)):
        assert math.isfinite(number), name


def finished():
    asked = pb.ExplanationSpec(prompt=pb.Prompt(text="good film"), occlusion=pb.Occlusion())
    *_, last = Run(ToyModel({"good": 1.0}), convert.to_question(asked))
    return last.result


@pytest.mark.parametrize(
    ("parts", "place"),
    [
        ({"base_value": math.nan}, "base_value"),
        ({"full_value": math.inf}, "full_value"),
        ({"stability": math.nan}, "stability"),
        ({"attributions": (Attribution("a", (0, 1), (0,), math.nan),)}, r"attributions\[0\].attribution"),
        ({"attributions": (Attribution("a", (0, 1), (0,), 0.0, math.nan),)}, r"attributions\[0\].standard_error"),
    ],
)
def test_what_is_no_number_is_found(parts, place):
    with pytest.raises(GlossError, match=place):
        numbers.check(replace(finished(), **parts))


def test_what_is_not_known_yet_is_absent():
    unknown = Attribution("a", (0, 1), (0,), 0.0, standard_error=None)
    numbers.check(replace(finished(), attributions=(unknown,)))
    assert numbers.known(math.inf) is None
    assert numbers.known(0.5) == 0.5


def test_a_run_does_not_end_well_without_a_number(monkeypatch):
    monkeypatch.setattr("ml.explain.run.two_sided_95", lambda _: math.nan)
    with pytest.raises(GlossError, match=r"without a number at attributions\[0\].interval.lower"):
        finished()
