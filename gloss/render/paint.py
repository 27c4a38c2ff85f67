"""Shaded texts, tokens and bars.

Colours set foreground and background together, in tones that are legible on dark and light terminals. On a console
without colour, signs and numbers replace them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.bar import Bar
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.style import Style
from rich.table import Table
from rich.text import Text

from gloss.render import figures
from gloss.render.escaping import visible

Tone = tuple[int, int, int]
FOR: tuple[Tone, Tone] = ((150, 112, 104), (214, 40, 40))
"""For support of the target, from the weakest shade to the strongest."""
AGAINST: tuple[Tone, Tone] = ((104, 118, 150), (37, 99, 235))
WEIGHT: tuple[Tone, Tone] = ((118, 112, 132), (124, 58, 237))
"""For attention."""
FAINT = 0.06
"""Below this share of the largest, nothing is shaded."""


def shade(tones: tuple[Tone, Tone], strength: float) -> Style:
    """White on a tone for a strength from 0 to 1; no style near 0, or for one that is not a number."""
    if not strength >= FAINT:
        return Style.null()
    weak, strong = tones
    mixed = (round(low + (high - low) * min(strength, 1.0)) for low, high in zip(weak, strong, strict=True))
    return Style(color="#ffffff", bgcolor=hexadecimal(tuple(mixed)), bold=strength > 0.6)


def hexadecimal(tone: tuple[int, ...]) -> str:
    """``#d62828``."""
    return "#" + "".join(f"{part:02x}" for part in tone)


def bar(size: float, begin: float, end: float, *, color: str) -> Bar:
    """A bar from `begin` to `end` of `size`, as wide as its place; an empty one where a number is not finite."""
    if not all(map(math.isfinite, (size, begin, end))):
        size, begin, end = 1.0, 0.0, 0.0
    return Bar(size, begin, end, color=color)


def add_bars(table: Table, header: str = "", *, width: int) -> None:
    """Add a column for bars to `table`. Where the console is narrow it shrinks first, so that numbers stay."""
    table.add_column(header, max_width=width)


class Shaded:
    """A text of segments ``(text, strength, note)``, shaded by signed strengths from -1 to 1, or not at all for None.

    Without colour, the note of each shaded segment follows it in brackets.
    """

    def __init__(self, segments: Iterable[tuple[str, float | None, str]], tones: tuple[Tone, Tone] = FOR) -> None:
        self._segments = list(segments)
        self._tones = tones

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = console.no_color or console.color_system is None
        text = Text()
        for segment, strength, note in self._segments:
            shown = visible(segment, keep_lines=strength is None)
            if strength is None:
                text.append(shown)
                continue
            text.append(shown, shade(self._tones if strength >= 0 else AGAINST, abs(strength)))
            if plain and abs(strength) >= FAINT:
                text.append(f"[{note}]")
        yield text


def plain(text: str, style: str = "") -> Text:
    """Text without interpretation: markup, names of emojis and control characters are shown literally.

    All text from a user, a model or a server goes through here or `visible` on its way to a console.
    """
    return Text(visible(text), style)


def quoted(token: str) -> Text:
    """A token with its leading spaces shown as ``␣``."""
    rest = token.lstrip(" ")
    return Text.assemble(("␣" * (len(token) - len(rest)), "dim"), visible(rest))


def shares(rows: Iterable[tuple[RenderableType, float, str]], *, colour: str = "cyan", width: int = 36) -> Table:
    """A bar chart of shares from 0 to 1, relative to the largest: ``(label, share, note)``."""
    rows = list(rows)
    maximum = max((share for _, share, _ in rows), default=0.0) or 1.0
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(min_width=10)
    add_bars(table, width=width)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", style="dim", no_wrap=True)
    for rank, (label, share, note) in enumerate(rows, 1):
        drawn = bar(1, 0, share / maximum, color=colour)
        table.add_row(str(rank), label, drawn, figures.percent(share), note)
    return table
