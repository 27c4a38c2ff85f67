"""Similar words: those whose embeddings are nearest to a word's, to stand in its place.

Where a word is taken out, or masked, what is left is a text that nobody writes, and what the model says of it is also
about the gap. A similar word leaves the sentence whole, and differs in something: in number, in tense, in which thing
of its kind it names. What then changes, changes because of the word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ml.encoding import Encoding
from ml.errors import CapabilityError
from ml.explain.features import Feature
from ml.explain.problem import Problem
from ml.models.protocol import ExplainableModel, ModelInternals
from ml.result import SimilarWords
from ml.tokens import Tokenizer

_LOOKED_AT = 128
"""Of the tokens nearest to a word, those that are looked at: many are the word itself, written in another way."""


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
    nearest = model.nearest_tokens([word.ids for word in asked], _LOOKED_AT).tolist() if asked else []
    similar = {
        word: _similar(tokenizer, word, near, perturbed.removals) for word, near in zip(asked, nearest, strict=True)
    }
    replacements = [tuple(_replacement(words, similar, rank) for words in cut) for rank in range(perturbed.removals)]
    used = tuple(
        SimilarWords(tuple(tokenizer.decode(ids).strip() for ids in dict.fromkeys(of_feature) if ids))
        for of_feature in zip(*replacements, strict=True)
    )
    resolved = replace(perturbed.resolved, similar=used)
    first, *others = (
        replace(perturbed, replacements=each, resolved=resolved, others=(), weight=1 / (1 + rank))
        for rank, each in enumerate(replacements)
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


def _similar(tokenizer: Tokenizer, word: _Word, nearest: Sequence[int], count: int) -> list[int]:
    """Up to `count` tokens, the most similar first, that can stand where a word stands and are others than it.

    They have its space, its capitals and its script, so that little else changes with the word.
    """
    special = _special(tokenizer)
    spaced, shape = tokenizer.token_text(word.ids[0])[:1].isspace(), _shape(word.text.strip())
    found: dict[str, int] = {}  # by what it says, however it is written
    for token_id in nearest:
        text = tokenizer.token_text(token_id)
        bare = text.strip()
        fits = bare.isalnum() and text[:1].isspace() == spaced and _shape(bare) == shape
        if fits and token_id not in special and bare.casefold() != word.text.strip().casefold():
            found.setdefault(bare.casefold(), token_id)
    return [*found.values()][:count]


def _special(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that are no words: commands to the model and its placeholders, such as the one for unknown words."""
    return frozenset(tokenizer.special.controls).union(tokenizer.special.placeholders)


def _shape(text: str) -> tuple[object, ...]:
    """Whether a text is a number, a letter or a word, how it is capitalized, and its script."""
    letters = [character for character in text if character.isalpha()]
    is_name_of_letter = len(text) == 1 and text.lower() != text.upper()
    scripts = frozenset(unicodedata.name(character, "").split(" ")[0] for character in letters)
    return bool(letters), is_name_of_letter, len(letters) > 1 and text.isupper(), text[:1].isupper(), scripts


def _replacement(words: Sequence[_Word], similar: Mapping[_Word, Sequence[int]], rank: int) -> tuple[int, ...]:
    """The tokens that take a feature's place: of each of its words the similar one of a rank, and what is around it."""
    if not any(similar.get(word) for word in words):
        return ()
    ids: list[int] = []
    for word in words:
        choices = similar.get(word, ())
        if choices:
            ids.append(choices[rank % len(choices)])
        elif not word.has_letters:
            ids.extend(word.ids)
    return tuple(ids)
