"""Names and messages use the field's words: each term below had a meaning in this project alone.

`docs/glossary.md` has the words to use. What is defined is read (functions, classes, arguments, attributes, variables,
modules, fields and messages of the contract, options, metrics), not what other people's libraries call things.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    "twin": "bfloat16_copy",
    "mass": "log_sum_exp",
    "lane": "batch_key",
    "turn": "round_robin",
    "pace": "throughput",
    "told": "logged, configured, sent",
    "residency": "worker context",
    "resident_context": "worker context",
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
    "attend_cli": "attention",
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


def told_wrongly(name: str) -> list[str]:
    return [f"{word} (write: {IN_NAMES[word]})" for word in words(name) if word in IN_NAMES]


@pytest.mark.parametrize("package", PACKAGES)
def test_names(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}: {', '.join(found)}"
        for path in python_files()
        if path.is_relative_to(ROOT / package)
        for line, name in defined(path)
        if name not in ALLOWED and (found := told_wrongly(name))
    ]
    assert not wrong, "\n".join(["private words:", *wrong])
