"""Messages from plain values."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import numpy as np
import pytest

from gloss import build, durations, tensors, v1
from gloss.calls import explanations, inference


def test_prompts() -> None:
    assert build.prompt("text") == v1.Prompt(text="text")
    assert build.prompt([1, 2]) == v1.Prompt(token_ids=v1.TokenIds(ids=[1, 2]))
    chat = v1.Prompt(chat=v1.Chat(messages=[v1.ChatMessage(role="user", content="hi")]))
    assert build.prompt([("user", "hi")]) == chat
    assert build.prompt([{"role": "user", "content": "hi"}]) == chat
    assert build.prompt([v1.ChatMessage(role="user", content="hi")]) == chat
    assert build.prompt(chat) is chat


def test_batches_of_prompts() -> None:
    assert len(build.prompts("one")) == 1
    assert len(build.prompts(["one", "two"])) == 2
    assert len(build.prompts([1, 2, 3])) == 1
    assert len(build.prompts([[1], [2, 3]])) == 2
    assert len(build.prompts([("user", "hi"), ("assistant", "hello")])) == 1
    assert len(build.prompts([[("user", "hi")], "text"])) == 2
    assert build.prompts([]) == []


def test_arrays_of_numbers_are_token_ids() -> None:
    two = build.prompts([[1, 2], [3, 4]])
    assert build.prompts(cast(Any, np.array([[1, 2], [3, 4]]))) == two
    assert build.prompts(cast(Any, np.array([1, 2]))) == two[:1]
    assert build.prompt(cast(Any, np.array([1, 2]))) == two[0]
    assert build.continuation(cast(Any, np.array([5]))) == build.continuation([5])
    assert build.target(cast(Any, np.int64(5)), against=" b") == build.target(5, against=" b")


@pytest.mark.parametrize(
    "value",
    [b"text", bytearray(b"text"), None, 5, 1.5, [1.5], [1, "a"], ["ab", "cd"], [b"text"], {"role": "user"},
     [{"role": "user"}], [{"role": "user", "content": ["a part"]}], [("user",)], np.array([1.5]), iter(["text"])],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_prompt_is_refused_and_shown(value: Any) -> None:
    """Bytes are numbers, and a text of two characters unpacks to two texts: neither was meant so."""
    with pytest.raises(TypeError, match="a prompt is text, token ids or chat messages with role and content, not"):
        build.prompt(value)
    if not isinstance(value, list) or value != ["ab", "cd"]:  # which is a batch
        with pytest.raises(TypeError, match="a prompt is text, token ids or chat messages"):
            build.prompts(value)
    with pytest.raises(TypeError, match="a continuation is text or token ids, not"):
        build.continuation(value)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (lambda: inference.generate("a", max_tokens=2**31), "max_tokens"),
        (lambda: inference.generate("a", max_tokens=cast(Any, "3")), "max_tokens"),
        (lambda: inference.generate("a", max_tokens=cast(Any, 1.5)), "max_tokens"),
        (lambda: inference.generate("a", seed=-1), "seed"),
        (lambda: inference.generate("a", temperature=cast(Any, "hot")), "temperature"),
        (lambda: inference.generate("a", stop=cast(Any, [5])), "stop"),
        (lambda: inference.generate("a", stop=cast(Any, b"ab")), "stop"),
        (lambda: inference.generate("a", model=cast(Any, 5)), "model"),
        (lambda: inference.next_token("a", top_k=2**31), "top_k"),
        (lambda: inference.next_token([2**40]), "ids"),
        (lambda: inference.score("a", "b", top_k=2**31), "top_k"),
        (lambda: inference.attention("a", layers=[2**31]), "layers"),
        (lambda: inference.attention("a", reduction=cast(Any, "mean")), "reduction"),
        (lambda: inference.tokenize("a", unit=cast(Any, "page")), "unit"),
        (lambda: explanations.list_(page_size=2**31), "page_size"),
        (lambda: explanations.list_(state=cast(Any, "done")), "state"),
    ],
)
def test_a_value_that_a_field_cannot_hold_is_refused_with_its_name(asked: Callable[[], object], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: "):
        asked()


def test_targets() -> None:
    assert build.target() is None
    assert build.target(" a") == v1.Target(next_token=v1.NextTokenTarget(text=" a"))
    assert build.target(0) == v1.Target(next_token=v1.NextTokenTarget(id=0))
    contrast = build.target(7, against=" b")
    assert contrast is not None
    assert contrast.contrast.chosen.token_ids.ids == [7]
    assert contrast.contrast.rejected.text == " b"
    assert build.target(follow=" a b") == v1.Target(continuation=v1.Continuation(text=" a b"))
    scaled = build.target(scale="probability")
    assert scaled is not None
    assert scaled.WhichOneof("kind") is None
    assert scaled.scale == v1.TARGET_SCALE_PROBABILITY


@pytest.mark.parametrize(
    "arguments",
    [
        {"against": " b"},
        {"value": " a", "follow": " b"},
        {"value": " a", "scale": "decibel"},
        {"value": v1.Target(), "against": " b"},
        {"value": " a", "generation": 3},
        {"follow": " a", "generation": 3},
    ],
)
def test_targets_that_make_no_sense(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        build.target(**arguments)


def test_features_and_removal() -> None:
    assert build.features() is None
    assert build.features("sentence") == v1.Features(unit=v1.FEATURE_UNIT_SENTENCE)
    spans = build.features([(0, 2), (3, 5)], within=(0, 9))
    assert spans is not None
    assert spans.spans[1] == v1.CharacterSpan(start=3, end=5)
    assert spans.within.end == 9
    assert build.removal() is None
    assert build.removal("mean-embedding") == v1.Removal(kind=v1.REMOVAL_KIND_MEAN_EMBEDDING)
    assert build.removal("similar") == v1.Removal(kind=v1.REMOVAL_KIND_SIMILAR)
    assert build.removal("similar-slopes") == v1.Removal(kind=v1.REMOVAL_KIND_SIMILAR_SLOPES)
    assert build.removal(replacement=" ") == v1.Removal(kind=v1.REMOVAL_KIND_TEXT, text=" ")
    with pytest.raises(ValueError, match="choose from token, word, sentence"):
        build.features("paragraph")
    with pytest.raises(ValueError, match="choose from mask, delete"):
        build.removal("burn")
    with pytest.raises(ValueError, match="leave out the kind"):
        build.removal("mask", replacement=" ")


def test_a_generation_is_a_target() -> None:
    assert build.target(generation=5) == v1.Target(generation=v1.GenerationTarget(max_tokens=5))


@pytest.mark.parametrize("field", build.METHOD_FIELDS)
def test_every_method_by_name_and_by_message(field: str) -> None:
    prompt = v1.Prompt(text="hello")
    assert build.spec(prompt, build.method(field.replace("_", "-"))).WhichOneof("method") == field
    message = type(getattr(v1.ExplanationSpec(), field))()
    assert build.spec(prompt, build.method(message)).WhichOneof("method") == field


def test_a_methods_parameters_are_keywords() -> None:
    built = build.method("lime", surrogate="decision-tree", max_depth=2, estimator="textbook", alpha=None)
    assert built == v1.Lime(surrogate=v1.SURROGATE_DECISION_TREE, max_depth=2, estimator=v1.ESTIMATOR_TEXTBOOK)
    assert build.method(v1.Lime(alpha=1), max_depth=2) == v1.Lime(alpha=1, max_depth=2)


@pytest.mark.parametrize(
    ("parameters", "logged"),
    [
        ({"depth": 2}, "Lime has no 'depth'; it has surrogate, alpha"),
        ({"surrogate": "spline"}, "surrogate: 'spline' is unknown; choose from ridge, lasso, decision-tree"),
        ({"max_depth": "deep"}, "max_depth: "),
        ({"max_depth": 2**40}, "max_depth: "),
    ],
)
def test_a_parameter_that_makes_no_sense_is_named(parameters: dict[str, object], logged: str) -> None:
    with pytest.raises(ValueError, match=logged):
        build.method("lime", **parameters)


def test_a_budget_is_sent_where_there_is_one() -> None:
    assert build.budget() is None
    half = timedelta(milliseconds=500)
    assert build.budget(max_duration=0.5) == build.budget(max_duration=half) == v1.Budget(max_duration=half)
    assert build.budget(seed=0) == v1.Budget()


@pytest.mark.parametrize("time", [0.0, 1e-9, 0.25, 3.5, 1e9, -1.5])
def test_durations_come_back(time: float) -> None:
    assert durations.seconds(durations.duration(time)) == time


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 1e12, "5", timedelta.max])
def test_a_duration_that_is_none_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"max_duration: .*seconds"):
        build.budget(max_duration=value)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: build.target(scale=cast(Any, "odds")), "scale"),
        (lambda: build.target(generation=2**40), "max_tokens"),
        (lambda: build.target(2**40), "id"),
        (lambda: build.target(cast(Any, 1.5)), "id"),
        (lambda: build.features(cast(Any, "letter")), "unit"),
        (lambda: build.features(cast(Any, [(1, 2, 3)])), "spans"),
        (lambda: build.features(within=cast(Any, (1,))), "within"),
        (lambda: build.features(within=(0, 2**40)), "within"),
        (lambda: build.spec(build.prompt("one"), v1.Lime(), precision=cast(Any, "int8")), "precision"),
        (lambda: build.spec(build.prompt("one"), v1.Lime(), faithfulness=cast(Any, "no")), "faithfulness"),
        (lambda: build.study(build.bias_probe([], {}), precision=cast(Any, "int8")), "precision"),
    ],
)
def test_a_value_that_the_contract_cannot_hold_is_named(make: Callable[[], object], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        make()


def test_one_text_is_not_a_list_of_letters() -> None:
    assert build.bias_probe("So {} was", {"men": "king"}) == build.bias_probe(["So {} was"], {"men": ["king"]})
    assert build.global_surrogate("one") == build.global_surrogate(["one"])
    assert inference.generate("one", stop="end").request == inference.generate("one", stop=["end"]).request


def test_a_replacement_beside_a_message_is_not_dropped() -> None:
    with pytest.raises(ValueError, match="is complete"):
        build.removal(v1.Removal(kind=v1.REMOVAL_KIND_DELETE), replacement="x")


def test_studies() -> None:
    probe = build.bias_probe(["So {} was"], {"men": ["king"], "women": ["queen"]})
    groups = [v1.SwapSet(label="men", words=["king"]), v1.SwapSet(label="women", words=["queen"])]
    assert probe == v1.BiasProbe(templates=["So {} was"], groups=groups)
    assert build.study(probe, model="m") == v1.StudySpec(model="m", bias_probe=probe)
    surrogate = build.global_surrogate(["one", [1, 2]], surrogate="ridge", held_out=0.5)
    assert surrogate == v1.GlobalSurrogate(
        prompts=[build.prompt("one"), build.prompt([1, 2])], surrogate=v1.SURROGATE_RIDGE, held_out=0.5
    )
    assert build.study(surrogate).global_surrogate == surrogate


def test_a_study_is_no_method_of_one_prompt() -> None:
    with pytest.raises(ValueError, match=r"BiasProbe is no method of ExplanationSpec; choose from occlusion, lime"):
        build.spec(v1.Prompt(text="hello"), v1.BiasProbe())
    with pytest.raises(ValueError, match=r"choose from global_surrogate, bias_probe"):
        build.study(v1.Lime())  # type: ignore[arg-type]


def test_an_unknown_method_names_the_choices() -> None:
    with pytest.raises(ValueError, match="kernel-shap"):
        build.method("magic")


def test_tensors() -> None:
    packed = struct.pack("<6f", *range(6))
    view = tensors.unpack(v1.Tensor(shape=[2, 3], type=v1.TENSOR_TYPE_FLOAT32, data=packed))
    assert view[1, 2] == 5.0
    assert view.tolist() == [[0, 1, 2], [3, 4, 5]]
    half = v1.Tensor(shape=[1, 2], type=v1.TENSOR_TYPE_FLOAT16, data=struct.pack("<2e", 0.5, -2))
    assert tensors.unpack(half).tolist() == [[0.5, -2.0]]
    assert tensors.unpack(v1.Tensor(shape=[1], type=v1.TENSOR_TYPE_INT32, data=struct.pack("<i", -1))).tolist() == [-1]
    assert tensors.unpack(v1.Tensor(shape=[0, 4], type=v1.TENSOR_TYPE_FLOAT32)).tolist() == []


def test_tensors_that_are_broken() -> None:
    with pytest.raises(ValueError, match="needs 8 bytes, not 4"):
        tensors.unpack(v1.Tensor(shape=[2], type=v1.TENSOR_TYPE_FLOAT32, data=b"1234"))
    with pytest.raises(ValueError, match="unknown"):
        tensors.unpack(v1.Tensor(shape=[0]))
