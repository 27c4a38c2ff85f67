"""Passages: the parts by which a text is quoted, from words to paragraphs. Pure functions of text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum

from ml.explain.text.blocks import blocks
from ml.explain.text.units import sentences, words
from ml.spec import Span

_LINE = re.compile(r"\S[^\r\n]*")
_PARAGRAPH = re.compile(r"\S[^\r\n]*(?:(?:\r\n|\r|\n)[^\S\r\n]*\S[^\r\n]*)*")


class TextUnit(Enum):
    """The parts that a text is cut into."""

    WORD = "word"
    SENTENCE = "sentence"
    ITEM = "item"
    LINE = "line"
    PARAGRAPH = "paragraph"


def cut(text: str, unit: TextUnit) -> list[Span]:
    """The units of a text in order, without the white space around them."""
    return _CUTTERS[unit](text)


def items(text: str) -> list[Span]:
    """List items, headings, rows of tables, blocks of code, and paragraphs."""
    return [span for block in blocks(text) if (span := _stripped(text, block.span)) is not None]


def lines(text: str) -> list[Span]:
    """Lines that are not blank. They end at LF, CR or both, as editors count them."""
    return _spans(text, _LINE)


def paragraphs(text: str) -> list[Span]:
    """Runs of lines between blank lines."""
    return _spans(text, _PARAGRAPH)


def _spans(text: str, pattern: re.Pattern[str]) -> list[Span]:
    found = (_stripped(text, match.span()) for match in pattern.finditer(text))
    return [span for span in found if span is not None]


def _stripped(text: str, span: Span) -> Span | None:
    """A span without the white space around it; None if nothing is left."""
    part = text[slice(*span)]
    start = span[0] + len(part) - len(part.lstrip())
    return (start, start + len(part.strip())) if part.strip() else None


_CUTTERS: Mapping[TextUnit, Callable[[str], list[Span]]] = {
    TextUnit.WORD: words,
    TextUnit.SENTENCE: sentences,
    TextUnit.ITEM: items,
    TextUnit.LINE: lines,
    TextUnit.PARAGRAPH: paragraphs,
}
