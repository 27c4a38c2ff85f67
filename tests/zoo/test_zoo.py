"""Each verb and method on each causal architecture of transformers; `make test-zoo` keeps what it finds.

GLOSS_ZOO_FEATURES names the features to try, with commas between them; what was found of others stays.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.configurations import architectures
from tests.zoo.features import FEATURES, INTERNALS, OK, examine
from tests.zoo.table import ROWS, keep

_REFUSED = ("is not causal", "answers the same prompt in two ways", "no causal language model that transformers")
"""What a model may be refused for as a whole."""

SOME = (
    *(
        "afmoe",
        "bart",
        "beam",
        "bloom",
        "falcon",
        "falcon, new decoder",
        "gemma3n_text",
        "gpt_neo",
        "gptj",
        "inkling_text",
    ),
    *("phimoe", "stablelm", "trocr", "whisper", "zamba"),
)
"""One of each kind of trouble beside those of the quick tests of verification."""

CHOSEN = list(filter(None, os.environ.get("GLOSS_ZOO_FEATURES", "").split(","))) or list(FEATURES)

pytestmark = pytest.mark.filterwarnings("default")


FAST = set(SOME) - {"inkling_text", "zamba"}
"""Those of them that use every fast way, at any length."""


DEAREST = {"gemma3n_text", "inkling_text", "zamba"}
"""Those of them that take half of the time of all."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in DEAREST else name for name in SOME]
)
def test_some_of_them(name: str, tmp_path: Path) -> None:
    row = examine(name, tmp_path / name)
    assert not complaints(row)
    assert (not row["slow"]) is (name in FAST), row["slow"]


@pytest.mark.zoo
@pytest.mark.parametrize("name", architectures())
def test_every_feature_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    row = examine(name, tmp_path / name.replace(", ", "-").replace(" ", "-"), CHOSEN)
    keep(row, list(FEATURES))
    assert not complaints(row)


def complaints(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row, with its architecture and feature."""
    name = row["architecture"]
    if "crash" in row:
        return [f"{name}: {row['crash']}"]
    if "refused" in row:
        return [] if any(reason in row["refused"] for reason in _REFUSED) else [f"{name}: {row['refused']}"]
    return [
        f"{name}, {feature}: {outcome}"
        for feature, outcome in row.get("features", {}).items()
        if outcome != OK and not (feature in INTERNALS and outcome.startswith(("refused: ", "unchecked: ")))
    ]


@pytest.mark.zoo
def test_at_least_a_hundred_architectures_are_served() -> None:
    rows = json.loads(ROWS.read_text(encoding="utf-8"))
    assert sum("features" in row for row in rows) >= 100
    assert not [complaint for row in rows for complaint in complaints(row)]
