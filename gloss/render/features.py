"""The features of an explanation as they are shown: their order, their texts, and how many decimals they need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gloss import v1
from gloss.render.escaping import token_text
from gloss.render.figures import Percent, decimals


def tells_shares(result: v1.ExplanationResult) -> bool:
    """Whether attributions are shares, which show where the prediction comes from, not what supports it."""
    return result.attribution_unit == v1.ATTRIBUTION_UNIT_SHARE


def sampled(result: v1.ExplanationResult) -> bool:
    """Whether attributions have standard errors, that is whether the method samples."""
    return any(part.standard_error or not part.HasField("standard_error") for part in result.attributions)


def digits(result: v1.ExplanationResult) -> int:
    """Decimals that show three figures of the largest attribution; for shares, those in per cent."""
    if tells_shares(result):
        return Percent(1)
    return decimals(max((abs(part.attribution) for part in result.attributions), default=0.0))


def segments(result: v1.ExplanationResult) -> Iterator[tuple[str, v1.FeatureAttribution | None]]:
    """The text in order, cut at the features' spans: each piece with its attribution, or None between features."""
    position = 0
    for part in result.attributions:
        if part.span.start > position:
            yield result.text[position : part.span.start], None
        if part.span.end > position:  # the tokens of one character share its span
            yield result.text[max(position, part.span.start) : part.span.end], part
            position = part.span.end
    if position < len(result.text):
        yield result.text[position:], None


def largest(result: v1.ExplanationResult) -> float:
    """The largest |attribution|, to which colours and bars are relative; at least the smallest positive number."""
    return max((abs(part.attribution) for part in result.attributions), default=0.0) or 1e-300


def ranked(result: v1.ExplanationResult) -> list[v1.FeatureAttribution]:
    """The features as in `by_token`, largest |attribution| first."""
    return sorted(by_token(result), key=lambda part: -abs(part.attribution))


def by_token(result: v1.ExplanationResult) -> list[v1.FeatureAttribution]:
    """The features in order; several of one character have their tokens' texts instead of the character."""
    spans = Counter((part.span.start, part.span.end) for part in result.attributions)

    def own(part: v1.FeatureAttribution) -> v1.FeatureAttribution:
        if spans[part.span.start, part.span.end] == 1 or len(part.positions) != 1:
            return part
        apart = v1.FeatureAttribution()
        apart.CopyFrom(part)
        apart.text = token_text(result.tokens[part.positions[0]])
        return apart

    return [own(part) for part in result.attributions]
