"""What both ways find of a context can be kept, and a run that is started again asks for nothing anew."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.finding.contexts import planted
from benchmarks.finding.kept import KeptCache
from benchmarks.hierarchical import FIGURES, find, keep
from tests.unit.ml.explain.toys import ToyModel, byte_tokenizer


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_found_can_be_kept(name: str, tmp_path: Path) -> None:
    figure = replace(FIGURES[name], sentences=20)
    context = planted(0, figure.sentences)
    model = ToyModel({"1": 1.0, "code": 0.5}, tokenizer=byte_tokenizer(unk=True, context=4096))
    found = find(model, context, figure, KeptCache(tmp_path / "found.cache"), math.inf)
    assert found is not None
    keep([found], model, name, tmp_path / "found.json")
    [kept] = json.loads((tmp_path / "found.json").read_text())["toy"][name]["contexts"]
    assert tuple(kept["planted"]) == tuple(sorted(context.planted))
    assert kept["evaluations"] <= figure.evaluations
    assert kept["flat_evaluations"] == figure.sentences + 2  # with all of them, and none
    computed = len(model.read)
    again = find(model, context, figure, KeptCache(tmp_path / "found.cache"), math.inf)
    assert (again, len(model.read)) == (found, computed)
