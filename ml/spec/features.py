"""What attributions are given to, for which parts of the target, and what takes a removed feature's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ml.errors import InputError
from ml.spec.checks import check_nul


class Unit(Enum):
    """Units that a prompt is cut into."""

    TOKEN = "token"  # noqa: S105
    WORD = "word"
    SENTENCE = "sentence"


Span = tuple[int, int]
"""A half-open range of characters (Unicode code points) in a text."""


@dataclass(frozen=True)
class Features:
    """What attributions are given to: units of the prompt, or the caller's own `spans`; `within` restricts units.

    `unit` None is the word, and has to be None where there are spans.
    """

    unit: Unit | None = None
    spans: tuple[Span, ...] = ()
    within: Span | None = None

    def __post_init__(self) -> None:
        if self.spans and self.unit is not None:
            raise InputError("unit", "leave the unit unset when spans are given: they are the features")
        _check_spans(self.spans)
        if self.within is not None and not 0 <= self.within[0] < self.within[1]:
            raise InputError("within", f"[{self.within[0]}, {self.within[1]}) is empty or negative")
        if self.within is not None and self.spans:
            raise InputError("within", "within restricts units; with spans, leave out the spans instead")


def _check_spans(spans: Sequence[Span]) -> None:
    """Raise `InputError` at the first span that is empty, or that begins before the end of the one before it."""
    end_before = 0
    for index, (start, end) in enumerate(spans):
        if not 0 <= start < end:
            raise InputError(f"spans[{index}]", f"[{start}, {end}) is empty or negative")
        if start < end_before:
            raise InputError(f"spans[{index}]", f"[{start}, {end}) overlaps or precedes the span before it")
        end_before = end


@dataclass(frozen=True)
class Rows:
    """The parts of the target's text that get a row of attributions each: units of it, or the caller's own `spans`.

    `unit` None is the token, and has to be None where there are spans. With `pairs` interactions have rows too.
    """

    unit: Unit | None = None
    spans: tuple[Span, ...] = ()
    pairs: bool = False

    def __post_init__(self) -> None:
        if self.spans and self.unit is not None:
            raise InputError("unit", "leave the unit unset when spans are given: they are the rows")
        _check_spans(self.spans)


class RemovalKind(Enum):
    """What takes a removed feature's place."""

    MASK_TOKEN = "mask token"  # noqa: S105
    TEXT = "text"
    DELETE = "delete"
    MEAN_EMBEDDING = "mean embedding"
    TEXT_AND_DELETE = "text and delete"
    SIMILAR = "similar words"
    SIMILAR_SLOPES = "similar words, slopes"


NEUTRAL = "*"
"""The text that says as little as any, where nobody chose one."""


@dataclass(frozen=True)
class Removal:
    """How features are removed; `kind` None means the model's mask or unknown token, else deletion."""

    kind: RemovalKind | None = None
    text: str = ""

    def __post_init__(self) -> None:
        if self.kind is RemovalKind.TEXT and not self.text:
            raise InputError("text", "give the text that replaces a feature, or remove by deletion")
        if self.kind in (RemovalKind.TEXT, RemovalKind.TEXT_AND_DELETE):
            check_nul("text", self.text)
        elif self.text:
            raise InputError("text", "a text is used by the removal kinds TEXT and TEXT_AND_DELETE only")
