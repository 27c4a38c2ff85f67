"""Contexts of many sentences: planted ones, of which a script knows what the answer rests on, and real ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml.explain.text.units import sentences
from ml.spec import (
    Continuation,
    ExplanationSpec,
    Features,
    GenerationTarget,
    Method,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    Target,
    Unit,
)
from ml.train.natural import natural

PLANTED = 5
"""Facts in a planted context, each a sentence of its own."""
_ANSWER_TOKENS = 16

_PEOPLE = (
    "Anna Bruno Clara David Emma Felix Greta Hugo Irene Jonas Karla Leo Maria Nora Oscar Paula Rita Simon Tina Victor"
)
_THINGS = "bag boat book box car cat clock coat cup desk dog door hat horse house key lamp shoe tent watch"
_STATES = "big blue clean cold dark dry green heavy light new old red round small soft tall thin warm wet white"


@dataclass(frozen=True)
class Context:
    """A prompt that is a context, and perhaps a question behind it.

    Attributes:
        context: how many characters of the prompt are the context, whose sentences are the sources.
        answer: what is explained; None is the model's own continuation.
        planted: the sources, by their numbers, that hold what the answer says; empty where nobody knows.
    """

    name: str
    prompt: str
    context: int
    answer: str | None = None
    planted: frozenset[int] = frozenset()

    def asked(self, method: Method, **parts: object) -> ExplanationSpec:
        """How a method is asked which sentences the answer rests on."""
        kind = GenerationTarget(_ANSWER_TOKENS) if self.answer is None else Continuation(text=self.answer)
        plain = {
            "target": Target(kind),
            "features": Features(Unit.SENTENCE, within=(0, self.context)),
            "removal": Removal(RemovalKind.DELETE),
            "quality": Quality(faithfulness=False),
        }
        return ExplanationSpec(Prompt(text=self.prompt), method, **(plain | parts))  # type: ignore[arg-type]


def planted(number: int, count: int) -> Context:
    """A list of `count` short sentences in random order, five of which name a code, and an answer that repeats these.

    Digits occur in these five alone.
    """
    random = np.random.default_rng([number, count])
    people = random.permutation(_PEOPLE.split())[:PLANTED]
    codes = [f"{code}" for code in random.integers(1000, 10000, PLANTED)]
    fillers = [
        f"The {thing} of {person} is {state}."
        for thing in _THINGS.split()
        for person in _PEOPLE.split()
        for state in _STATES.split()
    ]
    lines = [fillers[index] for index in random.choice(len(fillers), count - PLANTED, replace=False)]
    positions = np.sort(random.choice(count, PLANTED, replace=False))
    order = random.permutation(PLANTED)
    for place, index in zip(positions.tolist(), order.tolist(), strict=True):
        lines.insert(place, f"The code of {people[index]} is {codes[index]}.")
    context = " ".join(lines)
    said = " ".join(f"The code of {person} is {code}." for person, code in zip(people, codes, strict=True))
    return Context(f"planted {number}", context, len(context), f" {said}", frozenset(positions.tolist()))


def real(lines: Sequence[str], count: int, words: int) -> Iterator[Context]:
    """Texts of `count` sentences, of at most so many `words` each, in their order and their paragraphs.

    Args:
        lines: of WikiText. Sentences with words that it does not know are left out, as longer ones are.
    """
    paragraphs: list[list[str]] = []
    number = left = 0
    for line in lines:
        text = natural(line)
        if not text or text.startswith("="):
            continue
        said = [text[start:end] for start, end in sentences(text)]
        kept = [each for each in said if 3 <= len(each.split()) <= words and "<unk>" not in each and each[-1] == "."]
        kept = kept[: count - left]
        if not kept:
            continue
        paragraphs.append(kept)
        left += len(kept)
        if left == count:
            prompt = "\n\n".join(" ".join(each) for each in paragraphs)
            if len(sentences(prompt)) == count:  # two may have become one beside each other
                yield Context(f"real {number}", prompt, len(prompt))
                number += 1
            paragraphs, left = [], 0


def continued(lines: Sequence[str], count: int, words: int) -> Iterator[Context]:
    """Real texts, and for an answer the three sentences that follow; otherwise as `real`."""
    for context in real(lines, count + 3, words):
        end = sentences(context.prompt)[count][0]
        yield _answered(context, end, context.prompt[end:])


def quoted(lines: Sequence[str], count: int, words: int) -> Iterator[Context]:
    """Real texts, and for an answer a sentence of the text, the one that follows it, and another of the text."""
    for number, context in enumerate(real(lines, count + 1, words)):
        said = [context.prompt[start:end] for start, end in sentences(context.prompt)]
        one, other = np.random.default_rng([number, count]).choice(count, 2, replace=False).tolist()
        end = sentences(context.prompt)[count][0]
        yield _answered(context, end, " ".join([said[one], said[count], said[other]]), frozenset([one, other]))


def _answered(context: Context, end: int, answer: str, sources: frozenset[int] = frozenset()) -> Context:
    """A context that ends at a character, and what is said behind it."""
    prompt = context.prompt[:end].rstrip()
    return Context(context.name, prompt, len(prompt), f" {answer}", sources)


def wikitext(folder: Path) -> list[str]:
    """The lines of WikiText-2's training part, of which there are enough."""
    return (folder / "train.txt").read_text(encoding="utf-8").splitlines()
