"""What some methods find beside attributions, as tables of words: pairs of features, words of many prompts, groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gloss import v1
from gloss.render import words


@dataclass(frozen=True)
class Finding:
    """A table. The first column is text, and the others are numbers; `more` rows are left out below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int = 0


def findings(result: v1.ExplanationResult, *, top: int = 12) -> Iterator[Finding]:
    """The tables that a result has, each with its `top` rows."""
    if result.interactions:
        yield _interactions(result, top)
    if result.surrogate.coefficients:
        yield _coefficients(result.surrogate, top)
    if result.group_differences:
        yield _differences(result)


def _interactions(result: v1.ExplanationResult, top: int) -> Finding:
    ranked = sorted(result.interactions, key=lambda pair: -abs(pair.value))
    places = words.decimals(max(abs(pair.value) for pair in ranked))
    texts = [words.visible(part.text) for part in result.attributions]
    rows = tuple(
        (
            f"{texts[pair.first]} + {texts[pair.second]}",
            words.signed(pair.value, places),
            _error(pair, places),
        )
        for pair in ranked[:top]
    )
    title = "What two do together, beyond what each does alone"
    return Finding(title, ("pair", "together", "± s.e."), rows, max(0, len(ranked) - top))


def _coefficients(fit: v1.SurrogateFit, top: int) -> Finding:
    most = abs(fit.coefficients[0].coefficient)
    places = words.decimals(most)
    rows = tuple(
        (
            words.visible(word.word),
            words.signed(word.coefficient, places),
            _error(word, places),
        )
        for word in fit.coefficients[:top]
    )
    return Finding("Words over all prompts", ("word", "weight", "± s.e."), rows, max(0, len(fit.coefficients) - top))


def _differences(result: v1.ExplanationResult) -> Finding:
    places = words.decimals(max(abs(each.difference) for each in result.group_differences))
    level = result.group_differences[0].interval.level or 0.95
    rows = tuple(
        (
            f"{words.visible(each.first)} − {words.visible(each.second)}",
            words.signed(each.difference, places),
            _error(each, places),
            _interval(each.interval, places),
            str(each.pairs),
        )
        for each in result.group_differences
    )
    header = ("groups", "difference", "± s.e.", f"{100 * level:.0f}% interval", "pairs")
    return Finding("Differences between groups", header, rows)


def _error(found: v1.Interaction | v1.WordCoefficient | v1.GroupDifference, places: int) -> str:
    return words.uncertainty(found.standard_error, places).removeprefix("± ")


def _interval(interval: v1.Interval, places: int) -> str:
    shown = words.interval(interval, places)
    return f"{shown} (holds 0)" if shown and interval.lower <= 0 <= interval.upper else shown
