"""The blocks of a text: prose, and units such as list items, headings and code.

By Markdown's rules as far as they suit plain text: a line of dashes does not turn the text above it into a heading, a
line of tildes that underlines a title does not begin code, and HTML tags do not hide their content. Bullets and numbers
that Markdown does not know are recognized too, and so are unmarked code and fields as in the head of a mail.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from markdown_it import MarkdownIt

from ml.spec import Span

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_YEAR = re.compile(r"^([ \t]*)\d{4,9}(?=[.)][ \t])", re.MULTILINE)
_FOREIGN_MARKER = re.compile(
    r"^([ \t]*)(?:[•◦▪▫‣⁃●○■□–—]|\((?:\d{1,3}|[a-z])\)|[a-z]\))(?=[ \t]+\S)",  # noqa: RUF001
    re.MULTILINE,
)
_CODE = re.compile(
    r"""[{};\\]\s*$ | [\w\])]\s*[-+*/|&]?=\s*\S | [=-]> | \w\([^()]*\)
      | ^\s*(?://|@\w|"[^"]*":\s)
      | ^\s*(?:import|from|def|class|return|func|fn|function|const|let|var|public|private|else|try|SELECT)\b
      | ^\s*(?:if|for|while|with|elif|except)\b.*:\s*$""",
    re.VERBOSE,
)
_FIELD = re.compile(
    r"""(?:\[[^\]\r\n]+\] | [^\W\d_][\w-]*(?:[ ][\w-]+){0,2}) (?::(?=\s|\Z) | \uff1a)
      | \[?(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d""",
    re.VERBOSE,
)
"""The name of a field or of Markdown's link, or the time of an entry in a log."""

_FENCE = re.compile(r"[\s>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(?P<fence>`{3,}|~{3,})(?P<info>[^\r\n]*)")
_UNDERLINE = re.compile(r"(?:`{5,}|~{5,})(?=[ \t]*[\r\n]*\Z)")
_CERTAIN_UNDERLINE = 6
"""Characters from which an underline may be longer than its title."""

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_MARKDOWN.core.ruler.enableOnly(["normalize", "block"])
_MARKDOWN.block.ruler.enableOnly(["table", "code", "fence", "blockquote", "hr", "list", "heading", "paragraph"])
_MARKDOWN.parse("-")  # compiles the rules, which two threads must not do at once
_UNITS = frozenset({"list_item_open", "heading_open", "fence", "code_block", "hr", "tr_open"})

_FULL_LINE = 50
"""Columns from which a line counts as full, so that its text continues on the next line."""


@dataclass(frozen=True)
class Block:
    """A part of a text, with the white space after it.

    Attributes:
        is_unit: whether it is a unit by itself; otherwise it is prose.
        rank: of a heading, 1 for the highest; 0 for other blocks.
    """

    span: Span
    is_unit: bool
    rank: int = 0


def blocks(text: str) -> list[Block]:
    """Partition a text into blocks."""
    lines = [match.group() for match in _LINE.finditer(text)]
    kinds = _kinds(lines)
    for first, last in _paragraphs(lines):
        held = [kinds[line] for line in range(first, last) if line in kinds]
        if first in kinds and not {*held} - {"paragraph_open", "heading_open"} and _is_code(lines[first:last]):
            for line in range(first, last):
                kinds.pop(line, None)
            kinds[first] = "code_block"
        starts = [line for line in range(first, last) if line in kinds]
        for start, stop in pairwise([*starts, last]):
            if kinds[start] == "paragraph_open":
                kinds |= dict.fromkeys(_fields(lines, start, stop), "paragraph_open")
    for line, kind in list(kinds.items()):
        if kind == "list_item_open" and (end := _end_of_item(lines, line, kinds)) is not None:
            kinds[end] = "paragraph_open"
    kinds.setdefault(0, "paragraph_open")  # blank lines before the first one
    starts = [0, *accumulate(map(len, lines))]
    return [
        Block(
            (starts[line], starts[following]),
            kinds[line] in _UNITS,
            _rank(lines[line]) if kinds[line] == "heading_open" else 0,
        )
        for line, following in pairwise([*sorted(kinds), len(lines)])
    ]


def line_goes_on(line: str, following: str) -> bool:
    """Whether the line break between two lines of text stands for a space."""
    first = next((character for character in following if character.isalnum()), "")
    return first.islower() or sum(map(_columns, line.strip())) >= _FULL_LINE


def _kinds(lines: Sequence[str]) -> dict[int, str]:
    """The first lines of blocks, with Markdown's names of the blocks."""
    kinds: dict[int, str] = {}
    # A paragraph that begins with a year is no item, and one that begins with another mark is. Only lines are read off.
    marked = _FOREIGN_MARKER.sub(r"\1-", _YEAR.sub(r"\1x", "".join(_without_underlines(lines))))
    for token in _MARKDOWN.parse(marked):
        # A block at the start of an item is part of the item, and a nested list begins with an item of its own.
        if token.map is not None and (token.type in _UNITS or token.type == "paragraph_open"):
            kinds.setdefault(token.map[0], token.type)
    return kinds


def _without_underlines(lines: Sequence[str]) -> Iterator[str]:
    """`lines` with other signs for the underlines of titles that Markdown would take for the start of a code block.

    reStructuredText underlines titles with any sign.
    """
    fence, above = "", ""
    for line in lines:
        if not fence and _underlines(line, above):
            yield line.replace(line[0], "=")
        else:
            yield line
            if match := _FENCE.match(line):
                fence = _fence_after(fence, match)
        above = line


def _underlines(line: str, title: str) -> bool:
    """Whether a line underlines the one above: it is as long, or a long one that is longer."""
    match, width = _UNDERLINE.match(line), sum(map(_columns, title.rstrip()))
    if match is None or not width or title[:1].isspace():
        return False
    return width == match.end() or width < match.end() >= _CERTAIN_UNDERLINE


def _fence_after(fence: str, match: re.Match[str]) -> str:
    """The fence of the code block that is open behind a line that looks like one, if any."""
    if not fence:
        return "" if "`" in match["info"] else match["fence"]
    return "" if match["fence"].startswith(fence) and not match["info"].strip() else fence


def _fields(lines: Sequence[str], first: int, last: int) -> Iterator[int]:
    """The lines that begin a field, if a paragraph is made of fields: "Name: value", and indented what goes on."""
    begins = [line for line in range(first, last) if not lines[line][:1].isspace()]
    found = [line for line in begins if _is_field(lines[line])]
    if len(found) > 1 and 2 * len(found) > len(begins):
        yield from found


def _is_field(line: str) -> bool:
    return not line[:1].islower() and _FIELD.match(line) is not None


def _paragraphs(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Runs of lines that are not blank."""
    first = None
    for index, line in enumerate([*lines, ""]):
        if line.strip():
            first = index if first is None else first
        elif first is not None:
            yield first, index
            first = None


def _is_code(lines: Sequence[str]) -> bool:
    """Whether most lines look like code. Comments, headings and fields may look the same, so they do not count."""
    counted = [line for line in lines if not (line.lstrip().startswith("#") or _is_field(line))]
    return len(lines) > 1 and 2 * sum(bool(_CODE.search(line)) for line in counted) > len(counted)


def _end_of_item(lines: Sequence[str], first: int, kinds: dict[int, str]) -> int | None:
    """The line after an item, if Markdown counts it as part of the item although it is not indented."""
    for index in range(first + 1, len(lines)):
        line = lines[index]
        if index in kinds or not line.strip():
            return None
        if not line[:1].isspace() and not line_goes_on(lines[index - 1], line):
            return index
    return None


def _rank(heading: str) -> int:
    """The rank of a heading by its number of signs; the lowest for one in a quotation or an item."""
    return len(heading.strip()) - len(heading.strip().lstrip("#")) or 6


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
