"""Similar words: those whose embeddings are nearest to a word's, to stand in its place.

Where a word is taken out, or masked, what is left is a text that nobody writes, and what the model says of it is also
about the gap. A similar word leaves the sentence whole, and differs in something: in number, in tense, in which thing
of its kind it names. What then changes, changes because of the word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ml.encoding import Encoding
from ml.errors import CapabilityError
from ml.explain.features import Feature
from ml.explain.problem import Problem
from ml.models.protocol import ExplainableModel, ModelInternals
from ml.result import SimilarWords
from ml.spec import RemovalKind
from ml.tokens import Tokenizer

_LOOKED_AT = 128
"""Of the tokens nearest to a word, those that are looked at: many are the word itself, written in another way."""
_SMALLEST_DISTANCE = 0.02
"""Words nearer than this, such as copies of a word, count as this far away."""


@dataclass(frozen=True)
class _Similar:
    """A token that is similar to a word, and how far their embeddings are apart: 1 less their cosine."""

    token_id: int
    distance: float


@dataclass(frozen=True)
class _Word:
    """A word of a feature, with the space that its first token begins with; or tokens beside words, without letters."""

    ids: tuple[int, ...]
    text: str
    has_letters: bool


def with_similar_words(problem: Problem, model: ExplainableModel) -> Problem:
    """`problem`, each of whose removals puts another similar word in the place of each word of a feature.

    The first removal takes the most similar word, the second the next, which counts half as much, the third a third,
    and so on: the less similar a word, the more often it is of another kind. Where a word has fewer, they take turns. A
    word becomes one token, and punctuation around it stays. A feature without any similar word is taken out, and so is
    a word that the model does not know: its embedding is that of all unknown words.

    With `RemovalKind.SIMILAR_SLOPES`, the nth removal counts 1/sqrt(n), and what it changes is multiplied by the mean
    distance of the prompt's similar words over that of the nth ones. So the result keeps its unit.

    Raises:
        CapabilityError: the model's embeddings are out of reach.
    """
    if not isinstance(model, ModelInternals):
        name = model.info.name
        message = f"{name!r} is not computed by this process alone, and its embeddings are out of reach"
        raise CapabilityError(name, f"{message}; remove features in another way")
    tokenizer, perturbed = model.tokenizer, problem.perturbation
    cut = [[*_words(tokenizer, problem.encoding, feature)] for feature in problem.features]
    special = _special(tokenizer)
    every = dict.fromkeys(word for words in cut for word in words)
    asked = [word for word in every if word.has_letters and special.isdisjoint(word.ids)]
    similar: dict[_Word, list[_Similar]] = {}
    if asked:
        near = model.nearest_tokens([word.ids for word in asked], _LOOKED_AT)
        for word, ids, cosines in zip(asked, near.ids.tolist(), near.cosines.tolist(), strict=True):
            similar[word] = _similar(tokenizer, word, ids, cosines)[: perturbed.removals]
    ranks = range(perturbed.removals)
    replacements = [tuple(_replacement(words, similar, rank) for words in cut) for rank in ranks]
    used = tuple(
        SimilarWords(tuple(tokenizer.decode(ids).strip() for ids in dict.fromkeys(of_feature) if ids))
        for of_feature in zip(*replacements, strict=True)
    )
    resolved = replace(perturbed.resolved, similar=used)
    slopes = perturbed.resolved.kind is RemovalKind.SIMILAR_SLOPES
    factors = _factors(cut, similar, perturbed.removals) if slopes else [()] * perturbed.removals
    first, *others = (
        replace(
            perturbed,
            replacements=replacements[rank],
            resolved=resolved,
            others=(),
            weight=(1 + rank) ** (-0.5 if slopes else -1.0),
            factors=factors[rank],
        )
        for rank in ranks
    )
    return replace(problem, perturbation=replace(first, others=tuple(others)))


def _words(tokenizer: Tokenizer, encoding: Encoding, feature: Feature) -> Iterator[_Word]:
    """The words of a feature's tokens, and what is around them, in order."""
    runs: list[list[int]] = []  # positions of tokens without white space between them
    end = -1
    for position in feature.positions:
        start, stop = encoding.spans[position] or (end, end)
        if start > end or (start == end and encoding.text[start : start + 1].isspace()):
            runs.append([])
        runs[-1].append(position)
        end = stop
    for run in runs:
        lettered = [index for index, position in enumerate(run) if _has_letters(encoding, position)]
        first, last = (lettered[0], lettered[-1] + 1) if lettered else (0, 0)
        for begin, until in ((0, first), (first, last), (last, len(run))):
            if begin < until:
                ids = tuple(encoding.ids[position] for position in run[begin:until])
                yield _Word(ids, tokenizer.decode(ids), (begin, until) == (first, last))


def _has_letters(encoding: Encoding, position: int) -> bool:
    """Whether a token has a letter or a digit, or a part of one."""
    start, end = encoding.spans[position] or (0, 0)
    return any(character.isalnum() for character in encoding.text[start:end])


def _similar(tokenizer: Tokenizer, word: _Word, nearest: Sequence[int], cosines: Sequence[float]) -> list[_Similar]:
    """The tokens, the most similar first, that can stand where a word stands and are others than it.

    They have its space, its capitals and its script, so that little else changes with the word.
    """
    special = _special(tokenizer)
    spaced, shape = tokenizer.token_text(word.ids[0])[:1].isspace(), _shape(word.text.strip())
    found: dict[str, _Similar] = {}  # by what it says, however it is written
    for token_id, cosine in zip(nearest, cosines, strict=True):
        text = tokenizer.token_text(token_id)
        bare = text.strip()
        fits = bare.isalnum() and text[:1].isspace() == spaced and _shape(bare) == shape
        if fits and token_id not in special and bare.casefold() != word.text.strip().casefold():
            found.setdefault(bare.casefold(), _Similar(token_id, max(_SMALLEST_DISTANCE, 1 - cosine)))
    return [*found.values()]


def _special(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that are no words: commands to the model and its placeholders, such as the one for unknown words."""
    return frozenset(tokenizer.special.controls).union(tokenizer.special.placeholders)


def _shape(text: str) -> tuple[object, ...]:
    """Whether a text is a number, a letter or a word, how it is capitalized, and its script."""
    letters = [character for character in text if character.isalpha()]
    is_name_of_letter = len(text) == 1 and text.lower() != text.upper()
    scripts = frozenset(unicodedata.name(character, "").split(" ")[0] for character in letters)
    return bool(letters), is_name_of_letter, len(letters) > 1 and text.isupper(), text[:1].isupper(), scripts


def _replacement(words: Sequence[_Word], similar: Mapping[_Word, Sequence[_Similar]], rank: int) -> tuple[int, ...]:
    """The tokens that take a feature's place: of each of its words the similar one of a rank, and what is around it."""
    if not any(similar.get(word) for word in words):
        return ()
    ids: list[int] = []
    for word in words:
        choices = similar.get(word, ())
        if choices:
            ids.append(choices[rank % len(choices)].token_id)
        elif not word.has_letters:
            ids.extend(word.ids)
    return tuple(ids)


def _factors(
    cut: Sequence[Sequence[_Word]], similar: Mapping[_Word, Sequence[_Similar]], removals: int
) -> list[tuple[float, ...]]:
    """For each removal and feature, the mean distance of all over its own, which is the mean over its words.

    1 for a feature that is deleted: how far nothing is from a word is not known.
    """
    distances = np.full((removals, len(cut)), np.nan)
    for feature, words in enumerate(cut):
        known = [choices for word in words if (choices := similar.get(word))]
        for rank in range(removals if known else 0):
            distances[rank, feature] = np.mean([choices[rank % len(choices)].distance for choices in known])
    has_words = np.isfinite(distances)
    mean = distances[has_words].mean() if has_words.any() else 1.0
    distances[~has_words] = mean
    return [tuple(row) for row in (mean / distances).tolist()]
