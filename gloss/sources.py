"""The sources of a prompt: where passages of documents stand in what the model reads, and what is left out with each.

A source is left out with the white space behind it, up to the next one of its document.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import grpc

from gloss import v1
from gloss.citations import Source
from gloss.documents import Prompt, Span
from gloss.errors import GlossError


@dataclass(frozen=True)
class Sources:
    """Passages, and the range of characters of the model's text that is left out with each."""

    passages: tuple[Source, ...]
    spans: tuple[Span, ...]


def begin(prompt: Prompt, text: str) -> int:
    """Where a prompt begins in the text that a chat template makes of it.

    Raises:
        GlossError: the template changes what it is given, or writes it twice.
    """
    if text.count(prompt.text) == 1:
        return text.index(prompt.text)
    raise GlossError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "the model's chat template changes what it is given, so that no source can be found in it; give a template",
    )


def check_commands(prompt: Prompt, read: v1.TokenizeResponse, start: int) -> None:
    """Refuse a prompt that spells out what the model would take for a command, such as the end of its user's turn.

    Args:
        read: the prompt in tokens, which begins at `start`.

    Raises:
        GlossError: it names the place.
    """
    for position in read.special_positions:
        token = read.tokens[position]
        where = _where(prompt, token.span.start - start) if spells_out(read, token) else None
        if where is not None:
            raise command_error(where, token.text)


def spells_out(read: v1.TokenizeResponse, token: v1.Token) -> bool:
    """Whether a text has a token because it spells it out, and not because that stands for an end of line, say."""
    return token.HasField("span") and token.text.strip() in read.text[token.span.start : token.span.end]


def command_error(where: str, text: str) -> GlossError:
    """What is said of a text that the model would take for a command."""
    message = f"{where} holds {text!r}, which this model would take for a command and not for text; remove it"
    return GlossError(grpc.StatusCode.INVALID_ARGUMENT, message)


def _where(prompt: Prompt, position: int) -> str | None:
    """What of a prompt stands at a position of its text; None for the template's own words."""
    if prompt.question[0] <= position < prompt.question[1]:
        return "the question"
    for document, start in zip(prompt.documents, prompt.starts, strict=True):
        if start <= position < start + len(document.text):
            line, _ = document.lines((position - start, position - start))
            return f"{document.name}:{line}"
    return None


def sources(
    prompt: Prompt, read: v1.TokenizeResponse, start: int, units: Sequence[Sequence[v1.CharacterSpan]]
) -> Sources:
    """The passages of a prompt's documents.

    What has neither letters nor digits, such as a line of dashes or a brace, goes with the passage before it, and so
    does what no token of its own begins in.

    Args:
        read: the prompt in tokens, which begins at `start`.
        units: of each document, the spans that it is cut into.

    Raises:
        GlossError: there are none.
    """
    passages: list[Source] = []
    spans: list[Span] = []
    for document, offset, cut in zip(prompt.documents, prompt.starts, units, strict=True):
        parts = [(part.start, part.end) for part in cut]
        for extent in _extents(document.text, parts, read, start + offset):
            shown = extent[0], max(end for begin, end in parts if extent[0] <= begin < extent[1])
            passages.append(Source(document.name, *document.lines(shown), document.text[slice(*shown)]))
            spans.append((start + offset + extent[0], start + offset + extent[1]))
    if not passages:
        raise GlossError(grpc.StatusCode.INVALID_ARGUMENT, "the context has no words: there is nothing to cite")
    return Sources(tuple(passages), tuple(spans))


def _extents(text: str, parts: Sequence[Span], read: v1.TokenizeResponse, start: int) -> list[Span]:
    """What is left out with each of the passages among `parts` of a document's text, which begins at `start`."""
    begins = [begin for begin, end in parts if _says_something(text[begin:end])]
    while True:
        extents = [*pairwise([*begins, len(text)])]
        owned = own(read, [(start + begin, start + end) for begin, end in extents])
        if all(owned):
            return extents
        begins = [begin for begin, tokens in zip(begins, owned, strict=True) if tokens]


def own(read: v1.TokenizeResponse | v1.ExplanationResult, spans: Sequence[Span]) -> list[list[int]]:
    """The positions of the tokens that begin in each of ascending `spans`, by their first visible character."""
    starts = [start for start, _ in spans]
    owned: list[list[int]] = [[] for _ in spans]
    for position, token in enumerate(read.tokens):
        if not token.HasField("span") or token.span.start == token.span.end:
            continue
        anchor = _first_visible(read.text, token.span.start, token.span.end)
        index = bisect_right(starts, anchor) - 1
        if index >= 0 and anchor < spans[index][1]:
            owned[index].append(position)
    return owned


def _first_visible(text: str, start: int, end: int) -> int:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()) if part.strip() else start


def _says_something(text: str) -> bool:
    kinds = map(unicodedata.category, text)
    return any(kind[0] in "LN" or kind == "So" for kind in kinds)
