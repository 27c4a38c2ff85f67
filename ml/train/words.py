"""The two word vocabularies: WikiText's own, whose perplexities compare with published ones, and the article's."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ml.models.words import END, UNKNOWN, basic_english_tokenizer, wikitext_tokenizer


class Vocabulary(Enum):
    """How lines become words."""

    WIKITEXT = "wikitext"
    """Between spaces, case kept: 33,278 types on WikiText-2."""
    BASIC_ENGLISH = "basic-english"
    """torchtext's `basic_english`: lower case, punctuation apart: 28,784 types on WikiText-2."""


@dataclass(frozen=True)
class Words:
    """A vocabulary with its tokenizer for training and the one exported for serving.

    Attributes:
        words: in the order of their ids: special ones, then by falling frequency.
        split: a line's words, without `<eos>`.
        exported: finds the same words with their places in the text.
    """

    words: list[str]
    split: Callable[[str], list[str]]
    exported: PreTrainedTokenizerFast

    @property
    def end(self) -> int:
        """The id of `<eos>`."""
        return self.words.index(END)

    def encode(self, lines: list[str]) -> Tensor:
        """All lines as one stream of ids, each line with its `<eos>`."""
        ids = {word: i for i, word in enumerate(self.words)}
        unknown, end = ids[UNKNOWN], ids[END]
        return torch.tensor([i for line in lines for i in (*(ids.get(w, unknown) for w in self.split(line)), end)])


def build_words(lines: list[str], vocabulary: Vocabulary) -> Words:
    """The vocabulary of the training split's lines."""
    if vocabulary is Vocabulary.WIKITEXT:
        counts = Counter(word for line in lines for word in line.split())
        words = [UNKNOWN, END, *(word for word, _ in counts.most_common() if word not in (UNKNOWN, END))]
        return Words(words, str.split, wikitext_tokenizer(words))
    from torchtext.data.utils import get_tokenizer  # noqa: PLC0415 - of the train extra, and slow to import
    from torchtext.vocab import build_vocab_from_iterator  # noqa: PLC0415

    split = get_tokenizer("basic_english")
    with redirect_stderr(io.StringIO()):  # it draws a progress bar of its own
        found = build_vocab_from_iterator([*split(line), END] for line in lines)
    words = list(found.itos)
    return Words(words, split, basic_english_tokenizer(words))
