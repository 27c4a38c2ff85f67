"""The rows of a target, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gloss import v1
from gloss.render import figures, words
from gloss.render.escaping import visible
from gloss.values import row_attributions


@dataclass(frozen=True)
class Line:
    """A row: its text with leading spaces shown, its value, the effect of the whole prompt on it, and attributions."""

    text: str
    value: str
    effect: str
    parts: list[v1.FeatureAttribution]

    def leading(self, top: int) -> list[v1.FeatureAttribution]:
        """The features that matter most to the row, largest |attribution| first."""
        return sorted(self.parts, key=lambda part: -abs(part.attribution))[:top]


@dataclass(frozen=True)
class RowTable:
    """Rows to draw; `more` are left out.

    Attributes:
        header: of text, value and effect.
        digits_shown: decimals of all attributions.
        largest: the largest |attribution|, to which colours are relative.
        columns: the indices of the features that matter most to any row, ascending.
    """

    title: str
    header: tuple[str, str, str]
    lines: list[Line]
    more: int
    digits_shown: int
    largest: float
    columns: list[int]

    def share(self, part: v1.FeatureAttribution) -> float:
        """An attribution's size relative to the largest, 0 to 1."""
        return abs(part.attribution) / self.largest


def rows(result: v1.ExplanationResult, spec: v1.ExplanationSpec, *, top: int, columns: int = 0) -> RowTable | None:
    """The first `top` rows of a result; None if it has no rows."""
    if not result.rows:
        return None
    sizes = [max(abs(row.attributions[index]) for row in result.rows) for index in range(len(result.attributions))]
    ranked = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    unit = words.row_unit(spec)
    scale = "p" if result.target.scale == v1.TARGET_SCALE_PROBABILITY else "log p"
    return RowTable(
        title=f"What each {unit} of the answer rests on",
        header=(unit, scale, "effect"),
        lines=list(_lines(result, top)),
        more=max(0, len(result.rows) - top),
        digits_shown=figures.decimals(max(sizes)),
        largest=max(sizes) or 1e-300,
        columns=sorted(ranked[:columns]),
    )


def _lines(result: v1.ExplanationResult, top: int) -> Iterator[Line]:
    for row in result.rows[:top]:
        effect = row.full_value - row.base_value
        digits_shown = figures.decimals(max(abs(row.full_value), abs(effect)))
        text = visible(row.text)
        yield Line(
            "␣" * (len(text) - len(text.lstrip(" "))) + text.lstrip(" "),
            figures.number(row.full_value, digits_shown),
            figures.signed(effect, digits_shown),
            row_attributions(result, row),
        )
