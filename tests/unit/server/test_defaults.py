"""Defaults of inference: what the contract's comments and the command line say is what the server takes."""

from __future__ import annotations

import re

import click
import pytest

from gloss.cli import main
from gloss.v1.comments import COMMENTS
from ml import generation
from ml.generation import GenerationSpec
from server.services import inference

TAKEN = {
    "NextTokenRequest.top_k": inference.DEFAULT_TOP_K,
    "NextTokenRequest.temperature": inference.DEFAULT_TEMPERATURE,
    "ScoreRequest.top_k": 0,
    "GenerateRequest.max_tokens": generation.DEFAULT_TOKENS,
    "GenerateRequest.temperature": GenerationSpec().temperature,
    "GenerateRequest.top_p": GenerationSpec().top_p,
    "GenerateRequest.top_k": GenerationSpec().top_k,
}
COMMANDS = {"next": "NextTokenRequest", "score": "ScoreRequest", "generate": "GenerateRequest"}


def test_all_numbers_with_a_default_are_here() -> None:
    documented = {
        name
        for name, text in COMMENTS.items()
        if name.partition(".")[0] in COMMANDS.values() and re.search(r"Default: \d", text)
    }
    assert documented == set(TAKEN)


@pytest.mark.parametrize("field", TAKEN)
def test_the_contract_says_what_is_taken(field: str) -> None:
    found = re.search(r"Default: ([\d.]+?)[.,]", COMMENTS[field])
    assert found is not None
    assert float(found[1]) == TAKEN[field]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_says_the_same_and_sends_nothing_of_its_own(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    for parameter in command.params:
        field = f"{COMMANDS[name]}.{parameter.name}"
        if field in TAKEN and isinstance(parameter, click.Option):
            assert not isinstance(parameter.get_default(click.Context(command)), int | float)
            found = re.search(r"\[default: ([\d.]+)\]", parameter.help or "")
            assert found is not None, field
            assert float(found[1]) == TAKEN[field]
