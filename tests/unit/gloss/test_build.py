"""Messages from plain values."""

from __future__ import annotations

import struct

import pytest

from gloss import build, tensors, v1


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
    assert build.removal(replacement=" ") == v1.Removal(kind=v1.REMOVAL_KIND_TEXT, text=" ")
    with pytest.raises(ValueError, match="choose from token, word, sentence"):
        build.features("paragraph")
    with pytest.raises(ValueError, match="choose from mask, delete"):
        build.removal("burn")
    with pytest.raises(ValueError, match="leave out the other"):
        build.removal("mask", replacement=" ")


@pytest.mark.parametrize("field", build.METHOD_FIELDS)
def test_every_method_by_name_and_by_message(field: str) -> None:
    prompt = v1.Prompt(text="hello")
    assert build.spec(prompt, field.replace("_", "-")).WhichOneof("method") == field
    message = type(getattr(v1.ExplanationSpec(), field))()
    assert build.spec(prompt, message).WhichOneof("method") == field


def test_a_bias_probe() -> None:
    built = build.bias_probe({"men": ["king"], "women": ["queen"]}, ["So {} was"])
    groups = [v1.SwapSet(label="men", words=["king"]), v1.SwapSet(label="women", words=["queen"])]
    assert built == v1.BiasProbe(groups=groups, templates=["So {} was"])


def test_an_unknown_method_names_the_choices() -> None:
    with pytest.raises(ValueError, match="kernel-shap"):
        build.spec(v1.Prompt(text="hello"), "magic")


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
