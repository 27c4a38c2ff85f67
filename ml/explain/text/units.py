"""The words and sentences of a text. Pure functions of text; `ml.explain.features` assigns tokens to them.

Unicode's boundaries (UAX #29) as ICU finds them, with dictionaries for the scripts that write no space between words:
Chinese, Japanese, Thai, Lao, Khmer and Burmese. On top of these come rules that readers expect: addresses and hyphens
do not end a word, abbreviations and full lines do not end a sentence, and list items and the like are units.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise

from icu4py.breakers import BaseBreaker, SentenceBreaker, WordBreaker

from ml.explain.text.abbreviations import owns_full_stop, sentence_goes_on
from ml.explain.text.blocks import blocks, line_goes_on
from ml.spec import Span

_LOCALE = "en"
"""The language of a text is unknown, and matters for few languages."""

_ONE_WORD = re.compile(
    r"""(?<![a-z0-9]) (?:[a-z][a-z0-9+.-]{1,15}://|www\.)
        (?:\([^\s()<>]*\) | [^\s()<>"“”«»\u3000-\u9fff\uff00-\uffef])*
        (?:\([^\s()<>]*\) | [^\s()<>"“”«»\u3000-\u9fff\uff00-\uffef.,:;!?'’*_\]}…])
      | (?<![a-z0-9._%+-]) [a-z0-9._%+-]{1,64} @ [a-z0-9][a-z0-9-]* (?:\.[a-z0-9][a-z0-9-]*)+
      | (?<!\w) \d+ (?::\d+)+ (?!\w)""",  # noqa: RUF001
    re.VERBOSE | re.IGNORECASE,
)
"""Addresses and times, where UAX #29 finds many words."""

_WORD = re.compile(r"(?:w|a\.)(?:-(?:w|a\.))*|[^ ]")
"""A word by the kinds of its segments; see `_kinds`."""

_HYPHENS = frozenset("-\u2010\u2011")
_CLOSING = "\"'\u201d\u2019\u00bb)\\]}\u300d\u300f\uff09"
_OPENERS = "([{\u201c\u2018\u00ab\u3008\u300a\u300c\u300e\u3010\uff08\uff3b"
_MARKS = "[.!?\u2026\u203d\u061f\u06d4\u0964\u0965\u3002\uff01\uff1f]"
_ENDED = re.compile(rf"(?:{_MARKS}|[:;])[{_CLOSING}*_]*\Z")
_REFERENCE = re.compile(
    r"(?:\[[^\[\]\s][^\[\]\n]{0,30}\](?!\()|[\u00b9\u00b2\u00b3\u2070\u2074-\u2079])+(?::\s?\d[\d\u2013-]{0,9})?"
)
"""References behind a sentence, such as those of Wikipedia: ``1854.[1][2]: 45``. What goes on with ``(`` is a link."""

_REFERENCES = re.compile(rf"({_MARKS}[{_CLOSING}*_]*){_REFERENCE.pattern}(\s*)\Z")
_MORE_ENDS = re.compile(
    rf"""\u2026[{_CLOSING}]*\s+ | \.[{_CLOSING}]*\s+(?=\d) | [.!?][{_CLOSING}]*[*_`]+[{_CLOSING}]*\s+
       | {_MARKS}[{_CLOSING}*_]*{_REFERENCE.pattern}\s+
       | (?<=[\u0e00-\u0eff])[^\S\n]+(?=[\u0e00-\u0eff])""",
    re.VERBOSE,
)
"""More ends of sentences: an ellipsis, a full stop before a number, a mark within emphasis or before references, and a
space in Thai and Lao, which have no full stops and put spaces between clauses."""

_SAID = re.compile(r"\u3068(?:[\u3001\u3044\u306e\u3057\u3059]|[\u4e00-\u9fff])|\u3063\u3066")
"""What goes on with the sentence around a Japanese quotation: "and said", "and thinks"."""

_NEEDS_SPACE = re.compile(rf"[.!?][{_CLOSING}*_`]*\Z")
_MARKER = re.compile(r"(?<![^\s\u3002\uff01\uff1f\uff1b])\(?(?P<number>\d{1,3})(?P<sign>[.)])(?=\s)")
_LONE_MARKER = re.compile(r"\(?(?:\d{1,3}|[^\W\d_])[.)]")
_OPENING = re.compile(r"\A[\s\"'\u201c\u2018\u00ab(\[{*_>\u00bf\u00a1]*")
_LINE_BREAK = re.compile(r"[\n\r\x85\u2028\u2029]")
_LOOK_BACK = 256
_LOOK_AHEAD = 64


def words(text: str) -> list[Span]:
    """The words of `text` by UAX #29, and every punctuation mark or symbol by itself.

    A hyphen between letters or digits belongs to the word ("twenty-one", "2024-01-05"), and so does the full stop of an
    abbreviation ("e.g."). An address or a time is one word. White space belongs to no word.
    """
    segments = list(_segments(text))
    return [
        _strip(text, (segments[match.start()][0], segments[match.end() - 1][1]))
        for match in _WORD.finditer(_kinds(text, segments))
    ]


def sentences(text: str) -> list[Span]:
    """The sentences of `text`, without the white space around them.

    List items, headings, rows of tables and blocks of code are sentences. Elsewhere a sentence ends where UAX #29 ends
    it, except before a lower-case letter, after an abbreviation ("Dr.") and at the end of a full line. An ellipsis ends
    a sentence too, and so does a space in Thai and Lao. References behind a sentence belong to it.
    """
    found: list[Span] = []
    for block in blocks(text):
        start, end = block.span
        spans = list(pairwise([start, *_items(text, start, end), end]))
        for index, span in enumerate(spans):
            if block.is_unit or 0 < index < len(spans) - 1:
                found.append(span)
            else:  # the last item has no marked end
                found += _prose(text, *span)
    stripped = (_strip(text, span) for span in found)
    return [(start, end) for start, end in stripped if start < end]


def _segments(text: str) -> Iterator[Span]:
    """The words of UAX #29 and everything between them, with addresses and times whole."""
    start = 0
    for match in _ONE_WORD.finditer(text):
        yield from _breaks(WordBreaker, text, start, match.start())
        yield match.span()
        start = match.end()
    yield from _breaks(WordBreaker, text, start, len(text))


def _breaks(breaker: type[BaseBreaker], text: str, start: int, end: int) -> Iterator[Span]:
    """ICU's segments of a part of the text. Their lengths are used, as ICU's offsets count UTF-16 units."""
    for segment in breaker(text[start:end], _LOCALE):
        yield start, start + len(segment)
        start += len(segment)


def _kinds(text: str, segments: Sequence[Span]) -> str:
    """The kind of each segment, as a character.

    w letters or digits    a abbreviation without its full stop    - hyphen    . other visible ones    (space) none
    """
    kinds = []
    for (start, end), (_, after) in pairwise([*segments, (len(text), len(text))]):
        segment = text[start:end]
        if any(map(str.isalnum, segment)):
            is_abbreviation = text[end:after] == "." and owns_full_stop(
                segment, text[after : after + _LOOK_AHEAD].lstrip()
            )
            kinds.append("a" if is_abbreviation else "w")
        elif segment in _HYPHENS:
            kinds.append("-")
        else:
            kinds.append("." if any(map(_is_visible, segment)) else " ")
    return "".join(kinds)


def _prose(text: str, start: int, end: int) -> Iterator[Span]:
    """The sentences of a part of the text without lists."""
    for boundary in _candidates(text, start, end):
        said = text[max(start, boundary - _LOOK_BACK) : boundary]
        if boundary == end or not _goes_on(said, text[boundary : min(end, boundary + _LOOK_AHEAD)]):
            yield start, boundary
            start = boundary


def _candidates(text: str, start: int, end: int) -> list[int]:
    """The positions at which a sentence may end."""
    ends = {_moved(text, start, end, last) for _, last in _breaks(SentenceBreaker, text, start, end)}
    return sorted(ends | {match.end() for match in _MORE_ENDS.finditer(text, start, end)})


def _moved(text: str, start: int, end: int, boundary: int) -> int:
    """A boundary of UAX #29 before a bracket or quotation mark that opens there, or behind the references there.

    UAX #29 takes all of these for a part of the sentence before: "1854.[" and "1] The map".
    """
    moved = boundary
    while moved > start and text[moved - 1] in _OPENERS:
        moved -= 1
    if moved == start or boundary == end:
        return boundary
    reference = None if text[moved - 1].isspace() else _REFERENCE.match(text, moved, end)
    return moved if reference is None else reference.end()


def _goes_on(said: str, following: str) -> bool:
    """Whether a sentence continues from `said` to `following`."""
    if said[-1:] in ("\u300d", "\u300f") and _SAID.match(following):
        return True
    said = _REFERENCES.sub(r"\1\2", said)
    line = said.rstrip()
    has_ended = _ENDED.search(line) is not None
    is_line_break = _LINE_BREAK.search(said, len(line)) is not None
    if is_line_break and not has_ended:
        return line_goes_on(_LINE_BREAK.split(line)[-1], following)
    if _NEEDS_SPACE.search(said) or (not is_line_break and _LONE_MARKER.fullmatch(line.lstrip())):
        return True  # a name such as "Yahoo!'s", or the number of an item
    following = _OPENING.sub("", following)
    return (following[:1].islower() and not is_line_break) or sentence_goes_on(line, following)


def _items(text: str, start: int, end: int) -> list[int]:
    """The starts of the items of numbered lists within a line: "1. One. 2. Two"."""
    items: list[int] = []
    run: list[re.Match[str]] = []
    for match in _MARKER.finditer(text, start, end):
        before = text[max(start, match.start() - _LOOK_BACK) : match.start()].rstrip(" \t")[-1:]
        if match["sign"] == "." and before and before not in "\r\n.!?:;,\u2026\u3002":
            continue
        number = int(match["number"])
        if run and match["sign"] == run[-1]["sign"] and number == int(run[-1]["number"]) + 1:
            run.append(match)
        elif number == 1:
            items += _starts(run)
            run = [match]
    return items + _starts(run)


def _starts(run: Sequence[re.Match[str]]) -> list[int]:
    return [match.start() for match in run] if len(run) > 1 else []


def _strip(text: str, span: Span) -> Span:
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _is_visible(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character) not in {"Cf", "Cc"}
