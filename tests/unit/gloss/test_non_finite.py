"""Numbers that are not finite, as a model with a logit of -inf has them: every command shows them, as JSON too."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from google.protobuf.message import Message

from gloss import v1
from gloss.cli import COMMANDS, main
from gloss.client import Client
from tests.unit.gloss import fake
from tests.unit.gloss.test_hostile import complete

ARGUMENTS = {
    "next": ["a b"],
    "attention": ["a b"],
    "score": ["a", " b", "--top-k", "2"],
    "generate": ["a b", "--top-k", "2"],
    "tokenize": ["a b"],
    "models": ["--verbose"],
    "tour": ["a b"],
    "explain": ["a b"],
    "cite": ["--context", "-", "--question", "Why?"],
    "bias": ["The {} said", "--group", "a=b", "--group", "c=d"],
    "surrogate": ["-"],
    "jobs list": [],
    "jobs get": ["1"],
    "jobs watch": ["1"],
    "jobs cancel": ["1"],
    "jobs delete": ["1"],
}
PAGES = ("explain", "cite", "bias", "surrogate", "jobs get", "jobs watch")


def fill(message: Message, number: float) -> None:
    """Put a number into every floating-point field and every tensor of a message."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(message, v1.Tensor):
            if message.type == v1.TENSOR_TYPE_FLOAT32:
                message.data = array("f", [number] * (len(message.data) // 4)).tobytes()
        elif field.type == field.TYPE_DOUBLE:
            if field.is_repeated:
                value[:] = [number] * len(value)
            elif not field.has_presence or message.HasField(field.name):
                setattr(message, field.name, number)
        elif field.type == field.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
            for one in value if field.is_repeated else [value] if message.HasField(field.name) else []:
                fill(one, number)


@pytest.fixture(params=[math.nan, math.inf, -math.inf], ids=str)
def run(
    request: pytest.FixtureRequest, address: str, script: fake.Script, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Run a command against a server whose every number is not finite."""
    ask, read = Client._ask, Client._read

    def changed(reply: Any) -> Any:
        complete(reply)
        fill(reply, request.param)
        return reply

    monkeypatch.setattr(Client, "_ask", lambda self, call: changed(ask(self, call)))
    monkeypatch.setattr(Client, "_read", lambda self, call: map(changed, read(self, call)))
    with Client(address) as client:
        client.explain("a b")

    def invoke(command: str, *more: str) -> Any:
        arguments = [*command.split(), *ARGUMENTS[command], *more]
        result = CliRunner().invoke(main, arguments, env={"GLOSS_ADDRESS": address}, input="One line.\n\nTwo.\n")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return invoke


def test_every_command_is_tried() -> None:
    assert {command.split()[0] for command in ARGUMENTS} == set(COMMANDS)


def no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("command", ARGUMENTS)
def test_json_is_json(run: Callable[..., Any], command: str) -> None:
    result = run(command, "--json")
    texts = result.stdout.splitlines() if command in ("generate", "jobs watch") else [result.stdout]
    for text in texts:
        json.loads(text, parse_constant=no_json)


@pytest.mark.parametrize("command", ARGUMENTS)
def test_every_command_shows_them(run: Callable[..., Any], command: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run(command, *(["--html", str(page)] if command in PAGES else []))
    assert page.exists() == (command in PAGES)
