"""Pairs of continuations of which one word of the prompt decides, as one JSON object a line.

A prefix is followed by a right (`good`) and a wrong (`bad`) next word, and `span` is the place in characters of the
word that decides: "Raymond is selling this" goes on with " sketch" and not with " sketches" because of "this".
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from ml.explain.features import Feature
from ml.spec import Continuation, ContrastTarget, Span, Target

SAMPLE = Path(__file__).parents[1] / "data" / "agreement.jsonl"


@dataclass(frozen=True)
class Pair:
    """A minimal pair. `kind` is the grammatical phenomenon, and `span` the place of the word that decides."""

    kind: str
    prefix: str
    good: str
    bad: str
    span: Span

    @property
    def target(self) -> Target:
        """Why the right word rather than the wrong one."""
        return Target(ContrastTarget(Continuation(text=self.good), Continuation(text=self.bad)))

    @property
    def key(self) -> str:
        """What the pair is called in results."""
        return f"{self.prefix}|{self.good}|{self.bad}"

    def deciding(self, features: Sequence[Feature]) -> int:
        """The index of the feature that holds the deciding word.

        Raises:
            ValueError: no feature holds it.
        """
        start, end = self.span
        for index, feature in enumerate(features):
            if feature.span[0] <= start and end <= feature.span[1]:
                return index
        raise ValueError(f"no feature holds [{start}, {end}) of {self.prefix!r}")


def read(file: Path) -> list[Pair]:
    """The pairs of a file, the phenomena taking turns, so that the first few stand for all."""
    by_kind: dict[str, list[Pair]] = defaultdict(list)
    for line in file.read_text(encoding="utf-8").splitlines():
        each = json.loads(line)
        pair = Pair(each["set"], each["prefix"], each["good"], each["bad"], tuple(each["span"]))
        by_kind[pair.kind].append(pair)
    return list(_present(chain.from_iterable(zip_longest(*by_kind.values()))))


def _present(pairs: Iterator[Pair | None]) -> Iterator[Pair]:
    seen = set()
    for pair in pairs:
        if pair is not None and pair.key not in seen:
            seen.add(pair.key)
            yield pair
