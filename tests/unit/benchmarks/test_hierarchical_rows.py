"""Contexts with an answer of several sentences, and what two searches find of each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.finding.contexts import continued, planted, quoted
from benchmarks.hierarchical_rows import Found, find, keep, summary
from ml.explain.text.units import sentences
from ml.explain.values.cache import ValueCache
from ml.spec import Unit
from tests.unit.ml.explain.toys import ToyModel, byte_tokenizer

LINES = [
    f" The {thing} of number {number} was red and old . " for number, thing in enumerate(["bus", "car", "cat"] * 12)
]


def test_an_answer_stands_behind_its_context() -> None:
    for made in (continued, quoted):
        first, *_ = made(LINES, 8, 12)
        assert len(sentences(first.prompt)) == 8
        assert len(sentences(first.answer)) == 3
        said = [first.prompt[start:end] for start, end in sentences(first.prompt)]
        assert [index for index, each in enumerate(said) if each in first.answer] == sorted(first.planted)
        assert len(first.planted) == (2 if made is quoted else 0)


def test_what_is_found_of_rows_can_be_kept(tmp_path: Path) -> None:
    model = ToyModel({"1": 1.0, "code": 0.5}, tokenizer=byte_tokenizer(unk=True, context=4096))
    found = find(model, planted(0, 20), Unit.SENTENCE, 15, ValueCache())
    found.append(Found("another", 2.0, (True, False), (1, 2), 3, (0, 1), 1))
    for one in found:
        assert all(count <= one.top_of for count in one.top)
        assert all(count <= one.cited_of for count in one.cited)
    asked = {"answer": "planted", "unit": "sentence", "sentences": 20, "words": 10, "evaluations": 15}
    keep(found, 1, model, argparse.Namespace(**asked, json=tmp_path / "found.json"))
    [kept] = json.loads((tmp_path / "found.json").read_text()).values()
    assert kept["contexts"] == 1
    assert len(kept["rows"]) == len(found)
    assert kept["summary"] == summary(found)
    assert summary(found[-1:]).startswith("1 rows; without rows: the first in 1, 33% of the first 5, 0% of")
