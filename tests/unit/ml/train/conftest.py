"""A small text to train on: sentences whose words follow one another by rule, so that something can be learnt."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

SUBJECTS = {"cat": "cats", "ship": "ships", "king": "kings"}
VERBS = {"sees": "see", "meets": "meet", "leaves": "leave"}


def sentence(draw: random.Random) -> str:
    subject, verb, other = draw.choice(list(SUBJECTS)), draw.choice(list(VERBS)), draw.choice(list(SUBJECTS))
    if draw.random() < 0.5:
        return f"The {subject} {verb} the <unk> {other} , {draw.randrange(20)} times ."
    return f"The {SUBJECTS[subject]} {VERBS[verb]} the {other} 's well @-@ known friend ."


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in WikiText's form."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    for split, lines in (("train", 160), ("valid", 20), ("test", 20)):
        text = "".join(f" {' '.join(sentence(draw) for _ in range(3))} \n" for _ in range(lines))
        (folder / f"{split}.txt").write_text(f" \n = Heading = \n \n{text}", encoding="utf-8")
    return folder
