"""Draws citations on a rich console."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gloss.citations import Citations, Sentence
from gloss.render.citations import sayings
from gloss.render.escaping import visible
from gloss.render.paint import FOR, add_bars, bar, hexadecimal, plain

_WIDTH = 16
_NARROW = 56
"""Columns below which numbers stand alone: what a source is called stands in the list of sources as well."""
_NUMBER = "bold cyan"


def citations(found: Citations) -> Group:
    """The answer with the numbers of its sources, what each sentence rests on, and the sources."""
    method, origin = sayings.heading(found)
    ending = sayings.ending(found)
    return Group(
        *([Text.assemble((method, "bold"), (f" · {origin}", "dim"))] if method else []),
        plain(found.question),
        *([Padding(answer(found), (1, 2))] if found.answer else []),
        *([plain(ending, "yellow")] if ending else []),
        *(each for index, sentence in enumerate(found.sentences) for each in _sentence(index, sentence, found)),
        *_sources(found),
        *([plain(sayings.rule(found), "dim"), plain(sayings.cost(found), "dim")] if found.sentences else []),
    )


def answer(found: Citations) -> Text:
    """The answer, each sentence followed by the numbers of its sources."""
    text = Text()
    for segment, sentence in sayings.segments(found):
        text.append(visible(segment, keep_lines=True))
        if sentence is not None and sentence.citations:
            text.append(" " + "".join(f"[{found.numbers[source]}]" for source in sentence.cited), _NUMBER)
    return text


def _sentence(index: int, sentence: Sentence, found: Citations) -> Iterator[RenderableType]:
    title = Text.assemble((f"{index + 1}  ", "dim"), visible(sentence.text.strip()))
    title.truncate(100, overflow="ellipsis")
    yield title
    yield Padding(Text(sayings.value_line(sentence), "dim"), (0, 0, 0, 3))
    if sentence.citations:
        yield Padding(_Carried(sentence, found), (0, 0, 0, 3))
    yield from (Padding(plain(remark, "yellow"), (0, 0, 0, 3)) for remark in sayings.remarks(sentence, found))
    yield Text()


class _Carried:
    """What each source carries that is cited for a sentence. Numbers are whole, however narrow the terminal."""

    def __init__(self, sentence: Sentence, found: Citations) -> None:
        self._citations, self._found = sentence.citations, found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _NARROW
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("", style=_NUMBER, justify="right", no_wrap=True)
        if wide:
            table.add_column("source", overflow="fold")
            add_bars(table, width=_WIDTH)
        for name in ("carries", "of all", "alone"):
            table.add_column(name, justify="right", no_wrap=True)
        largest = max(citation.value for citation in self._citations)
        for citation in self._citations:
            place = plain(self._found.sources[citation.source].place)
            drawn = bar(largest, 0, citation.value, color=hexadecimal(FOR[1]))
            numbers = sayings.value(citation), sayings.share(citation), sayings.alone(citation)
            number = f"[{self._found.numbers[citation.source]}]"
            table.add_row(number, *((place, drawn) if wide else ()), *numbers)
        yield table


def _sources(found: Citations) -> Iterator[RenderableType]:
    if not found.numbers:
        return
    table = Table.grid(padding=(0, 1))
    table.add_column(style=_NUMBER, justify="right")
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for index, number in found.numbers.items():
        source = found.sources[index]
        table.add_row(f"[{number}]", plain(source.place), plain(source.text))
    yield Text("Sources", "bold")
    yield Padding(table, (0, 0, 1, 0))
