"""Whatever the contract can ask can be asked from the command line, and from Python without a message made by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from click.testing import CliRunner
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from gloss import build, v1
from gloss.calls.explanations import explain, study
from gloss.cli import main
from gloss.values import enum_names
from tests.unit.gloss import fake

METHODS = v1.ExplanationSpec.DESCRIPTOR.oneofs_by_name["method"].fields
GROUPS = {"a": ["king"], "b": ["queen"]}


def is_leaf(field: Any) -> bool:
    kind = field.message_type
    return kind is None or kind.full_name == Duration.DESCRIPTOR.full_name or not kind.fields


def fields_of(described: Any, path: str = "") -> Iterator[str]:
    """The path of everything that can be set in a message."""
    for field in described.fields:
        within = f"{path}{field.name}"
        yield from [within] if is_leaf(field) else fields_of(field.message_type, f"{within}.")


def set_in(message: Message, path: str = "") -> Iterator[str]:
    """The path of everything that is set in one."""
    for field, value in message.ListFields():
        within = f"{path}{field.name}"
        if is_leaf(field):
            yield within
        else:
            for one in value if field.is_repeated else [value]:
                yield from set_in(one, f"{within}.")


def sample(field: Any) -> Any:
    """A value that a field can hold and that is no zero."""
    if field.enum_type is not None:
        return next(iter(enum_names(field.enum_type)))
    return {field.TYPE_DOUBLE: 0.5, field.TYPE_INT32: 2, field.TYPE_BOOL: True}[field.type]


def option(field: Any) -> list[str]:
    """The same for the command line."""
    return [f"--{field.name.replace('_', '-')}", *([] if field.type == field.TYPE_BOOL else [str(sample(field))])]


def name_of(method: Any) -> str:
    return method.name.replace("_", "-")


BUDGET = ["--max-evaluations", "5", "--max-duration", "2", "--seed", "1"]
EXPLAIN = [
    ["hello", "--model", "m", "--target", " x", "--scale", "log", "--unit", "word", "--within", "1:3"],
    ["hello", *BUDGET, "--standard-error", "0.1", "--no-faithfulness", "--precision", "auto", "--continuation", " x"],
    ["hello", "--span", "1:3", "--removal", "text=x", "--target", " x", "--against", " y"],
    ["hello", "--chat", "--generation", "3"],
    ["hello", "--generation", "3", "--rows", "sentence"],
    ["hello", "--continuation", " x y", "--rows", "1:2", "--rows", "3:4", "--method", "interactions", "--pairs"],
    ["1,2", "--ids", "--target", "3", "--against", "4"],
    ["1,2", "--ids", "--target", "3"],
    ["1,2", "--ids", "--continuation", "3,4"],
    *(["hello", "--method", name_of(method)] for method in METHODS),
    *(
        ["hello", "--method", name_of(method), *option(field)]
        for method in METHODS
        for field in method.message_type.fields
    ),
]
TARGETS = [["--target", " x"], ["--continuation", " x"], ["--generation", "3"], ["--target", " x", "--against", " y"]]
IDS = [["--target", "3", "--against", "4"], ["--target", "3"], ["--continuation", "3"]]
SURROGATE = [field for field in v1.GlobalSurrogate.DESCRIPTOR.fields if field.name != "prompts"]
STUDY = [
    *(["surrogate", "-", *target] for target in TARGETS),
    *(["surrogate", "-", "--ids", *target] for target in IDS),
    ["surrogate", "-", "--chat", "--scale", "probability", *(part for field in SURROGATE for part in option(field))],
    ["bias", "{} said", "--group", "a=b", "--group", "c=d", "--model", "m", *BUDGET, "--precision", "auto"],
]


def asked(script: fake.Script, arguments: list[str], address: str, text: str = "") -> Message:
    """What a command sends."""
    result = CliRunner().invoke(main, [*arguments, "--no-wait"], env={"GLOSS_ADDRESS": address}, input=text)
    assert result.exit_code == 0, result.output
    request = script.requests["CreateExplanation"][-1]
    question: Message = getattr(request, request.WhichOneof("question"))
    return question


def test_every_field_of_an_explanation_from_the_command_line(address: str, script: fake.Script) -> None:
    reached = {path for arguments in EXPLAIN for path in set_in(asked(script, ["explain", *arguments], address))}
    assert set(fields_of(v1.ExplanationSpec.DESCRIPTOR)) - reached == set()


def test_every_field_of_a_study_from_the_command_line(address: str, script: fake.Script) -> None:
    reached = {path for arguments in STUDY for path in set_in(asked(script, arguments, address, "1\n2\n"))}
    assert set(fields_of(v1.StudySpec.DESCRIPTOR)) - reached == NOT_OF_STUDIES


NOT_OF_STUDIES = {"budget.standard_error"}
"""A study has no such limit, and is refused with it."""

PROMPTS: list[Any] = ["hello", [1, 2], [("user", "hi")]]
BUDGETS: Mapping[str, Any] = {"max_evaluations": 5, "max_duration": 2, "seed": 1}
ASKED: list[dict[str, Any]] = [
    {"target": " x", "scale": "probability", "features": "word", "within": (1, 3), "removal": "mask", "model": "m"},
    {"target": 3, "features": [(1, 3)], "replacement": "x"},
    {"target": " x", "against": " y", **BUDGETS, "standard_error": 0.1, "faithfulness": False, "precision": "auto"},
    {"target": 3, "against": [4]},
    {"continuation": " x"},
    {"continuation": [3]},
    {"generation": 3},
    {"generation": 3, "rows": "sentence"},
    {"continuation": " x y", "rows": [(1, 2), (3, 4)], "pairs": True},
]


def sent(conversation: Any) -> Message:
    """What a call of the client sends at first."""
    request = next(conversation.steps).request
    question: Message = getattr(request, request.WhichOneof("question"))
    return question


def test_every_field_of_an_explanation_from_python() -> None:
    plans = [
        *(explain(prompt) for prompt in PROMPTS),
        *(explain("hello", **more) for more in ASKED),
        *(
            explain("hello", name_of(method), **{field.name: sample(field) for field in method.message_type.fields})
            for method in METHODS
        ),
    ]
    reached = {path for plan in plans for path in set_in(sent(plan))}
    assert set(fields_of(v1.ExplanationSpec.DESCRIPTOR)) - reached == set()


def test_every_field_of_a_study_from_python() -> None:
    of_explanations = {
        "features",
        "within",
        "removal",
        "replacement",
        "standard_error",
        "faithfulness",
        "rows",
        "pairs",
    }
    targets = [{name: value for name, value in more.items() if name not in of_explanations} for more in ASKED]
    surrogate = build.global_surrogate(PROMPTS, **{field.name: sample(field) for field in SURROGATE})
    plans = [*(study(surrogate, **more) for more in targets), study(build.bias_probe(["{} said"], GROUPS))]
    reached = {path for plan in plans for path in set_in(sent(plan))}
    assert set(fields_of(v1.StudySpec.DESCRIPTOR)) - reached == NOT_OF_STUDIES


@pytest.mark.parametrize("command", [["explain", "hello"], ["bias", "{} said", "--group", "a=b", "--group", "c=d"]])
def test_what_is_not_given_is_not_sent(address: str, script: fake.Script, command: list[str]) -> None:
    """So the server's defaults are the only ones."""
    kinds = {"prompt", "method", "occlusion", "bias_probe"}
    assert {path.split(".")[0] for path in set_in(asked(script, command, address))} <= kinds
    assert not asked(script, ["explain", "hello"], address).HasField("budget")
