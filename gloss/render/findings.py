"""Tables of findings other than attributions: interactions of pairs, words over many prompts, differences of groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gloss import v1
from gloss.render import features, figures
from gloss.render.escaping import visible


@dataclass(frozen=True)
class Finding:
    """A table, with text in the first column and numbers in the others; `more` rows are left out."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int = 0


def findings(result: v1.ExplanationResult | v1.StudyResult, *, top: int = 12) -> Iterator[Finding]:
    """The tables of a result, with at most `top` rows each."""
    if isinstance(result, v1.ExplanationResult):
        if result.interactions:
            yield _interactions(result, top)
    elif result.global_surrogate.coefficients:
        yield _coefficients(result.global_surrogate.coefficients, top)
    elif result.bias_probe.differences:
        yield _differences(result.bias_probe.differences)


def _interactions(result: v1.ExplanationResult, top: int) -> Finding:
    ranked = sorted(result.interactions, key=lambda pair: -abs(pair.value))
    digits_shown = figures.decimals(max(abs(pair.value) for pair in ranked))
    texts = [visible(part.text) for part in features.by_token(result)]
    rows = tuple(
        (
            f"{texts[pair.first]} + {texts[pair.second]}",
            figures.signed(pair.value, digits_shown),
            _error(pair, digits_shown),
        )
        for pair in ranked[:top]
    )
    title = "What two do together, beyond what each does alone"
    return Finding(title, ("pair", "together", "± s.e."), rows, max(0, len(ranked) - top))


def _coefficients(found: Sequence[v1.WordCoefficient], top: int) -> Finding:
    digits_shown = figures.decimals(abs(found[0].coefficient))
    rows = tuple(
        (visible(word.word), figures.signed(word.coefficient, digits_shown), _error(word, digits_shown))
        for word in found[:top]
    )
    return Finding("Words over all prompts", ("word", "weight", "± s.e."), rows, max(0, len(found) - top))


def _differences(found: Sequence[v1.GroupDifference]) -> Finding:
    digits_shown = figures.decimals(max(abs(each.difference) for each in found))
    level = found[0].interval.level or 0.95
    rows = tuple(
        (
            f"{visible(each.first)} − {visible(each.second)}",
            figures.signed(each.difference, digits_shown),
            _error(each, digits_shown),
            _interval(each, digits_shown),
            str(each.pairs),
        )
        for each in found
    )
    header = ("groups", "difference", "± s.e.", f"{100 * level:.0f}% interval", "pairs")
    return Finding("Differences between groups", header, rows)


def _error(found: figures.WithError, digits_shown: int) -> str:
    return figures.uncertainty(found, digits_shown).removeprefix("± ")


def _interval(found: v1.GroupDifference, digits_shown: int) -> str:
    shown = figures.interval(found, digits_shown)
    return f"{shown} (holds 0)" if shown and found.interval.lower <= 0 <= found.interval.upper else shown
