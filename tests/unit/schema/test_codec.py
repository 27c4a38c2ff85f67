"""The conversion by descriptors: what is paired with what, and that neither side can be changed alone."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass, replace
from enum import Enum
from typing import Any, get_type_hints

import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gloss import v1 as pb
from ml import result, spec
from ml.errors import InputError
from schema import codec, convert
from schema.codec import Codec, MismatchError
from tests.unit.schema.messages import messages_of

PAIRS = [value for value in vars(convert).values() if isinstance(value, Codec)]


def below(pair: Codec[Any, Any]) -> set[tuple[str, type]]:
    """The pairs that were made for a pair, itself among them."""
    messages: dict[str, type] = dict(codec._made)
    described, todo = set[str](), [pair.message.DESCRIPTOR]
    while todo:
        kind = todo.pop()
        if kind.full_name not in described:
            described.add(kind.full_name)
            todo += [field.message_type for field in kind.fields if field.message_type is not None]
    return {(name, kind) for name, kind in messages if name in described}


ALL = sorted({found for pair in PAIRS for found in below(pair)}, key=str)


def test_every_message_of_a_question_and_of_a_result_is_paired() -> None:
    paired = {name.removeprefix("gloss.v1.") for name, _ in ALL}
    lists = {"Chat", "TokenIds", "CharacterSpan"}  # tuples on the other side
    asked = {"ExplanationSpec", "StudySpec", "Lime", "BiasProbe", "SwapSet", "Target", "Continuation", "Budget"}
    found = {
        "ExplanationResult",
        "StudyResult",
        "Progress",
        "FeatureAttribution",
        "TreeNode",
        "GroupDifference",
        "Cost",
    }
    assert asked | found <= paired
    assert not paired & lists


@pytest.mark.parametrize(("name", "kind"), ALL, ids=lambda each: getattr(each, "__name__", each))
def test_a_field_on_one_side_only_is_refused(name: str, kind: type) -> None:
    """In both directions, for every message of questions and results."""
    message = message_factory.GetMessageClass(pb.Prompt.DESCRIPTOR.file.pool.FindMessageTypeByName(name))
    own = [(each, hint, field(default=None)) for each, hint in get_type_hints(kind, include_extras=True).items()]
    with pytest.raises(MismatchError, match="stray"):
        Codec(message, make_dataclass(kind.__name__, [*own, ("stray", int, 0)]))
    for left_out in own:
        with pytest.raises(MismatchError, match=left_out[0] if not _is_union(message, left_out[0]) else "fields of"):
            Codec(message, make_dataclass(kind.__name__, [each for each in own if each is not left_out]))


def _is_union(message: type[Message], name: str) -> bool:
    """Whether a field of the dataclass is a oneof, whose members the message then lacks one by one."""
    return name in message.DESCRIPTOR.oneofs_by_name


def test_a_value_of_an_enum_on_one_side_only_is_refused() -> None:
    class Scale(Enum):
        LOG_PROBABILITY = 1

    class Longer(Enum):
        LOG_PROBABILITY = 1
        PROBABILITY = 2
        DECIBEL = 3

    for kind, alone in ((Scale, "PROBABILITY"), (Longer, "DECIBEL")):
        target = make_dataclass("Target", [("kind", spec.TargetKind), ("scale", kind)], frozen=True)
        with pytest.raises(MismatchError, match=alone):
            Codec(pb.Target, target)


def test_a_member_of_a_oneof_on_one_side_only_is_refused() -> None:
    @dataclass(frozen=True)
    class Magic:
        pass

    for kind, alone in ((spec.Occlusion, "Lime"), (spec.Method | Magic, "Magic")):
        others = [(name, hint) for name, hint in get_type_hints(spec.ExplanationSpec).items() if name != "method"]
        with pytest.raises(MismatchError, match=alone):
            Codec(pb.ExplanationSpec, make_dataclass("ExplanationSpec", [*others, ("method", kind)]))


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.kind.__name__)
def test_what_was_read_is_written_and_read_alike(pair: Codec[Any, Any], data: st.DataObject) -> None:
    message = data.draw(messages_of(pair.message.DESCRIPTOR))
    try:
        value = pair.read(message)
    except InputError:
        return  # specs refuse most of what is drawn
    assert pair.read(pair.write(value)) == value


@given(data=st.data())
@pytest.mark.parametrize("pair", [convert.EXPLANATION_RESULT, convert.STUDY_RESULT, convert.PROGRESS])
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_results_lose_nothing(pair: Codec[Any, Any], data: st.DataObject) -> None:
    """What is written holds all that was read: each field that was set, with its value."""
    message = data.draw(messages_of(pair.message.DESCRIPTOR))
    try:
        written = pair.write(pair.read(message))
    except InputError:
        return  # an enum that a result must have was not set
    assert dict(_leaves(message)).items() <= dict(_leaves(written)).items()


def _leaves(message: Message, path: str = "") -> Any:
    for part, value in message.ListFields():
        for index, one in enumerate(value if part.is_repeated else [value]):
            members = f"{path}.{part.name}[{index}]"
            if part.message_type is None:
                yield members, one
            else:
                yield from _leaves(one, members)


def test_absent_is_the_default_and_zero_is_zero() -> None:
    assert convert.EXPLANATION_SPEC.read(_spec(lime=pb.Lime())).method == spec.Lime()
    assert convert.EXPLANATION_SPEC.read(_spec(lime=pb.Lime(alpha=0))).method == spec.Lime(alpha=0.0)
    precision = result.Precision("bfloat16")
    assert not codec.codec(pb.Precision, result.Precision).write(precision).HasField("measured_error")
    exact = codec.codec(pb.Precision, result.Precision).write(replace(precision, measured_error=0.0))
    assert exact.HasField("measured_error")


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.1, 2.5, 1e9, 3600.000000001])
def test_durations_are_seconds(seconds: float) -> None:
    pair = codec.codec(pb.Budget, spec.Budget)
    if seconds:
        assert pair.read(pair.write(spec.Budget(max_duration=seconds))).max_duration == pytest.approx(seconds, abs=1e-9)
    with pytest.raises(InputError):
        pair.read(pb.Budget(max_duration={"seconds": -1}))


def _spec(**method: Message) -> pb.ExplanationSpec:
    return pb.ExplanationSpec(prompt=pb.Prompt(text="one"), **method)


def test_an_enum_that_is_newer_than_this_is_named() -> None:
    with pytest.raises(InputError, match="77 is not a value that this version knows") as error:
        convert.to_question(_spec(lime=pb.Lime(surrogate=77)))
    assert error.value.field == "lime.surrogate"
