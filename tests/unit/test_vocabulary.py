"""Names and messages use the field's words: each term below had a meaning in this project alone.

`docs/glossary.md` has the words to use. What is defined is read (functions, classes, arguments, attributes, variables,
modules, fields and messages of the contract, options, metrics), not what other people's libraries call things.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import click
import pytest

import server.metrics
import server.settings
import worker.metrics
import worker.settings
from gloss import v1
from gloss.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmarks", "deploy", "gloss", "jobs", "ml", "schema", "server", "tests", "worker")
GENERATED = ROOT / "gloss/v1"

IN_NAMES = {
    "beginning": "prefix",
    "beginnings": "prefixes",
    "remember": "insert into the prefix cache, store",
    "remembered": "cached",
    "recall": "look up",
    "recalled": "cached_tokens",
    "settle": "insert, commit, record",
    "settled": "converged, recorded",
    "places": "slots, positions, indices",
    "piece": "span, token",
    "pieces": "spans, tokens",
    "tails": "logit positions",
    "readout": "logit positions, continuations",
    "trunk": "shared prefix",
    "walk": "traversal, tour",
    "forest": "prefix tree",
    "visit": "traverse",
    "twin": "copy",
    "mass": "log_sum_exp",
    "lane": "batch_key",
    "turn": "round_robin",
    "pace": "throughput",
    "told": "logged, configured, sent",
    "residency": "worker context",
    "deaf": "unresponsive",
    "beat": "heartbeat",
    "beats": "heartbeats",
    "room": "memory, capacity",
    "inside": "internals",
    "inspector": "internals",
    "extremes": "empty_and_full",
    "fewest": "min_",
    "most": "max_",
    "survey": "study",
    "surveys": "studies",
    "firm": "the constant's own meaning",
}
"""The term, and what to write in its place."""

IN_PROSE = ("beginnings", "recalled", "trunk", "twin", "residency", "deaf", "readout", "forest")
"""Those without a plain meaning of their own."""

ALLOWED = {
    "pieces": "what SentencePiece and WordPiece call their tokens",
    "_pieces": "the same",
    "PIECES": "the same",
}
"""At most 15 names or lines, each with its reason."""


def python_files() -> list[Path]:
    """Every module that people wrote."""
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path for path in found if GENERATED not in path.parents and path != Path(__file__))


def defined(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a module defines."""
    yield 1, path.stem
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.startswith("test_"):
                pass  # a sentence
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name


def words(name: str) -> list[str]:
    """`_MOST_TEXTS` and `mostTexts` as most, texts."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


@cache
def private(name: str) -> list[str]:
    """The private words in a name, each with what to write."""
    return [f"{word} (write: {IN_NAMES[word]})" for word in words(name) if word in IN_NAMES]


@pytest.mark.parametrize("package", PACKAGES)
def test_names(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}: {', '.join(found)}"
        for path in python_files()
        if path.is_relative_to(ROOT / package)
        for line, name in defined(path)
        if name not in ALLOWED and (found := private(name))
    ]
    assert not wrong, "\n".join(["private words:", *wrong])


PROSE = re.compile(rf"\b({'|'.join(IN_PROSE)})\b", re.IGNORECASE)


def prose_files() -> list[Path]:
    """What people wrote for people: docs, the contract, comments and messages. CHANGELOG tells of the past."""
    found = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("proto/**/*.proto"),
        *ROOT.glob("jobs/lua/*.lua"),
    ]
    return sorted({*found, *python_files()} - {ROOT / "CHANGELOG.md"})


def test_prose() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {found[0]}"
        for path in prose_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (found := PROSE.search(line)) and line.strip() not in ALLOWED
    ]
    assert not wrong, "\n".join(["words without a plain meaning:", *wrong])


def contract_names() -> Iterator[str]:
    """Fields, messages, enum values, methods and services of the contract."""
    for name in dir(v1):
        descriptor = getattr(getattr(v1, name), "DESCRIPTOR", None)
        if hasattr(descriptor, "full_name"):  # a module has one too, without a name
            yield descriptor.full_name
            yield from (f"{descriptor.full_name}.{field.name}" for field in getattr(descriptor, "fields", ()))
            yield from (f"{descriptor.full_name}.{value.name}" for value in getattr(descriptor, "values", ()))


def option_names() -> Iterator[str]:
    """Commands and options of the command line."""
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        for each in (command, *getattr(command, "commands", {}).values()):
            yield f"gloss {name}"
            yield from (f"gloss {name} {option}" for parameter in each.params for option in parameter.opts)


def metric_names() -> Iterator[str]:
    """Metrics of server and worker, and settings."""
    for module in (server.metrics, worker.metrics):
        for family in module.Metrics().registry.collect():
            yield family.name
    for settings in (server.settings.Settings, worker.settings.Settings):
        yield from (f"GLOSS_{field.upper()}" for field in settings.model_fields)


@pytest.mark.parametrize("names", [contract_names, option_names, metric_names])
def test_what_users_see(names: Callable[[], Iterator[str]]) -> None:
    seen = list(names())
    assert seen
    wrong = [f"{name}: {', '.join(found)}" for name in seen if (found := private(name.rpartition(".")[2]))]
    assert not wrong, "\n".join(["private words:", *wrong])


def test_the_allow_list_is_short() -> None:
    assert len(ALLOWED) <= 15
