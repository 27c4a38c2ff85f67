"""Features: the parts of a prompt that get attributions, and the tokens that each of them owns.

A token belongs to the feature that contains its first visible character, so that the space which many tokenizers put
before a word does not matter; a token of white space belongs to the feature with its first character. Tokens outside of
the text (special tokens) and tokens of no feature are never changed.

Every feature owns at least one token. Where one token covers the starts of several words, the first word owns it and
extends to the end of the last: what is removed together is shown together. A unit without any token (a tokenizer may
drop characters) is no feature.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ml import spec
from ml.encoding import Encoding
from ml.errors import InputError
from ml.explain.text.units import sentences, words
from ml.spec import Span, Unit

MAX_FEATURES = 4096
"""The most features of one explanation: a surrogate with so many coefficients is solved in seconds."""


@dataclass(frozen=True)
class Feature:
    """A part of the prompt: its text, its span in characters, and the positions of its tokens, ascending."""

    text: str
    span: Span
    positions: tuple[int, ...]


def segment(
    encoding: Encoding, features: spec.Features, *, field: str = "features", of: str = "prompt"
) -> tuple[Feature, ...]:
    """Cut a prompt into features, in the order of the text.

    Args:
        field: the path of `features` in the request, for errors.
        of: what is cut, for errors.

    Raises:
        InputError: a span is outside of the text or owns no token; there are no features, or too many.
    """
    text, unit = encoding.text, features.unit or Unit.WORD
    if features.spans:
        cut = _caller_features(encoding, features.spans, field, of)
    else:
        if features.within is not None and features.within[1] > len(text):
            raise InputError(f"{field}.within", _outside(features.within, text))
        spans = _token_spans(encoding) if unit is Unit.TOKEN else _units(text, unit, encoding.editable)
        if features.within is not None:
            start, end = features.within
            spans = [span for span in spans if start <= first_visible(text, span) < end]
        cut = _by_token(encoding, spans) if unit is Unit.TOKEN else _own(encoding, spans, merge=True)
        if not cut and features.within is not None:
            start = features.within[0]
            why = f"no {unit.value} of the {of} begins there; there is nothing to explain"
            raise InputError(f"{field}.within", why + _reason(encoding, start, of))
        if not cut:
            start = len(text) - len(text.lstrip())
            why = f"the {of} has no {unit.value} of its own; there is nothing to explain"
            raise InputError(field, why + _reason(encoding, start, of))
    if len(cut) > MAX_FEATURES:
        advice = "choose larger units" + (", or restrict them with features.within" if of == "prompt" else "")
        raise InputError(field, f"the {of} has {len(cut)} {field} and at most {MAX_FEATURES} fit; {advice}")
    return tuple(cut)


def _caller_features(encoding: Encoding, spans: Sequence[Span], field: str, of: str) -> list[Feature]:
    for index, span in enumerate(spans):
        if span[1] > len(encoding.text):
            raise InputError(f"{field}.spans[{index}]", _outside(span, encoding.text))
    cut = _own(encoding, spans, merge=False)
    held = {feature.span for feature in cut}
    for index, (start, end) in enumerate(spans):
        if (start, end) not in held:
            why = f"no token of the {of} begins in [{start}, {end}) ({encoding.text[start:end]!r})"
            raise InputError(f"{field}.spans[{index}]", why + _reason(encoding, start, of))
    return cut


def _reason(encoding: Encoding, start: int, of: str) -> str:
    """Why no token of a prompt begins from `start` on, where that is because a token of the target does."""
    if of == "prompt" and max((span[1] for span in encoding.spans if span), default=0) <= start < len(encoding.text):
        return ": there the target's first token begins; let the prompt end between two words"
    return ""


def _units(text: str, unit: Unit, regions: Sequence[Span]) -> list[Span]:
    cut = words if unit is Unit.WORD else sentences
    return [(start + first, start + last) for start, end in regions for first, last in cut(text[start:end])]


def _own(encoding: Encoding, spans: Sequence[Span], *, merge: bool) -> list[Feature]:
    """Give every token to the span with its first visible character.

    With `merge`, spans without a token join the one before.
    """
    starts = [start for start, _ in spans]
    owned: list[list[int]] = [[] for _ in spans]
    reach = [0] * len(spans)  # how far the tokens of each span extend
    for position, span in enumerate(encoding.spans):
        if span is None or span[0] == span[1]:
            continue
        anchor = first_visible(encoding.text, span)
        index = bisect_right(starts, anchor) - 1
        if index >= 0 and anchor < spans[index][1]:
            owned[index].append(position)
            reach[index] = max(reach[index], span[1])

    features: list[Feature] = []
    reached = 0
    for (start, end), positions, extent in zip(spans, owned, reach, strict=True):
        if positions:
            features.append(Feature(encoding.text[start:end], (start, end), tuple(positions)))
            reached = extent
        elif merge and features and start < reached:
            first = features[-1].span[0]
            features[-1] = Feature(encoding.text[first:end], (first, end), features[-1].positions)
    return features


def _token_spans(encoding: Encoding) -> list[Span]:
    """Spans of the tokens that begin in an editable part, one for each token."""
    spans = [span for span in encoding.spans if span is not None and span[0] < span[1]]
    anchors = [first_visible(encoding.text, span) for span in spans]
    return [
        span
        for span, anchor in zip(spans, anchors, strict=True)
        if any(start <= anchor < end for start, end in encoding.editable)
    ]


def _by_token(encoding: Encoding, spans: Sequence[Span]) -> list[Feature]:
    """A feature for each token. Several tokens of one character have its span each."""
    chosen = set(spans)
    return [
        Feature(encoding.text[span[0] : span[1]], span, (position,))
        for position, span in enumerate(encoding.spans)
        if span is not None and span in chosen
    ]


def first_visible(text: str, span: Span) -> int:
    """The index of the first character of a span that is not white space, else its start."""
    start, end = span
    return next((index for index in range(start, end) if not text[index].isspace()), start)


def _outside(span: Span, text: str) -> str:
    return f"[{span[0]}, {span[1]}) leaves the text, which has {len(text)} characters"
