"""Words and sentences: a table of texts in many scripts, and what holds for every text."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.explain.text.blocks import blocks
from ml.explain.text.units import sentences, words
from ml.spec import Span

Cut = Callable[[str], list[Span]]

TABLE = json.loads(Path(__file__).with_name("text_units.json").read_text(encoding="utf-8"))
"""By unit and topic: texts, and the units that a reader would see in them."""

SIGNS = [*"aBé中5.!…。 \n\t*(|🦊\u0301\u201d\0", "ไทย", "हि", "🇫🇷"]
MARKS = ["\n\n", "\r\n", "- ", "1. ", "2) ", "# ", "> ", "```\n", "Dr. ", "e.g. ", "U.S.", "https://a.b/c. "]
PARTS = st.sampled_from([*SIGNS, *MARKS])
TEXTS = st.one_of(st.text(max_size=60), st.lists(PARTS, max_size=24).map("".join))


def cases(unit: str) -> list[object]:
    """The table's cases of a unit."""
    return [
        pytest.param(text, expected, id=f"{topic} {index}")
        for topic, rows in TABLE[unit].items()
        for index, (text, expected) in enumerate(rows)
    ]


@pytest.mark.parametrize(("text", "expected"), cases("words"))
def test_words(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in words(text)] == expected


@pytest.mark.parametrize(("text", "expected"), cases("sentences"))
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


@pytest.mark.parametrize("cut", [words, sentences])
@given(text=TEXTS)
def test_units_hold_all_that_is_visible_in_order(cut: Cut, text: str) -> None:
    found = cut(text)
    for start, end in found:
        assert start < end
        assert text[start:end] == text[start:end].strip()
    assert all(before[1] <= after[0] for before, after in pairwise(found))
    held = {position for span in found for position in range(*span)}
    left = {text[position] for position in set(range(len(text))) - held}
    assert all(character.isspace() or unicodedata.category(character) in {"Cf", "Cc"} for character in left)


@given(TEXTS)
def test_blocks_partition_the_text(text: str) -> None:
    found = [block.span for block in blocks(text)]
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == len(text)


@given(TEXTS, TEXTS)
def test_what_a_blank_line_divides_is_cut_alone(one: str, other: str) -> None:
    one, other = (" ".join(f"x{text}x".split()) for text in (one, other))
    border = len(one) + 2
    alone = sentences(one) + [(start + border, end + border) for start, end in sentences(other)]
    assert sentences(f"{one}\n\n{other}") == alone


LONG = ["Mr. Smith (who knew) said no... ", "- a\n", "1. a\n", "> a\n", "| a |\n", "```\n", "a = 1\n", "A.\n", "a \n"]


@pytest.mark.parametrize("unit", [*LONG, "“", "(a", "a)  ", "a://", "中。", "ไทย ", "x-", "U.S.", "*a.* "])
@pytest.mark.parametrize("cut", [words, sentences])
def test_long_texts_take_linear_time(cut: Cut, unit: str) -> None:
    def seconds(count: int) -> float:
        text = unit * count
        start = time.process_time()
        cut(text)
        return time.process_time() - start

    short = min(seconds(500) for _ in range(3))
    assert min(seconds(4000) for _ in range(2)) < 24 * short + 0.05, "eight times the text, and three for chance"
