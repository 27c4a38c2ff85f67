"""Games and models whose explanations are known beforehand. Nothing here imports torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ml.explain.estimator import BoolArray, Estimate, Explainer, FloatArray, Game
from ml.models.protocol import LogProbabilities, ModelInfo, Prefix, RoundedModel
from ml.spec import Continuation, ContrastTarget, Target
from ml.tokens import Tokenizer

WORDS = ["<unk>", "<eos>", "yes", "no", "the", "film", "was", "good", "bad", "not", "very", ".", "!", "and"]


def word_tokenizer(*, context: int = 64) -> Tokenizer:
    """Whole words and punctuation marks; everything else is <unk>."""
    backend = Backend(models.WordLevel({word: index for index, word in enumerate(WORDS)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"eos_token": "<eos>", "unk_token": "<unk>"}
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, **special), context)


def byte_tokenizer(*, unk: bool, context: int = 128) -> Tokenizer:
    """A byte-level BPE. Without `unk` the end of the text doubles as the unknown token, so that there is no mask."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|endoftext|>", "unk_token": "<unk>" if unk else "<|endoftext|>"}
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["The capital of France is Paris.", "the film was good, the film was bad"], trainer)
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, **special), context)


class ToyModel:
    """A bag of words: the logit of "yes" is the sum of effects of the words and pairs of words read; all others are 0.

    So under `YES_RATHER_THAN_NO` a prompt's value is exactly that sum.
    """

    def __init__(
        self,
        effects: Mapping[str, float],
        pairs: Mapping[tuple[str, str], float] | None = None,
        tokenizer: Tokenizer | None = None,
        parameters: int = 1,
        device: str = "cpu",
    ) -> None:
        """A model of these effects; one on another device than a CPU is asked for many prompts at once."""
        self.tokenizer = tokenizer or word_tokenizer()
        self.info = ModelInfo(
            name="toy",
            digest="d" * 64,
            architecture="toy",
            parameters=parameters,
            layers=1,
            heads=0,
            hidden_size=1,
            vocabulary_size=self.tokenizer.vocabulary_size,
            context_length=self.tokenizer.context_length,
            device=device,
            dtype="float32",
        )
        self._effects = {self._id(word): effect for word, effect in effects.items()}
        self._pairs = {(self._id(a), self._id(b)): effect for (a, b), effect in (pairs or {}).items()}
        self.read: list[tuple[int, ...]] = []
        self.batches: list[int] = []

    def _id(self, word: str) -> int:
        return self.tokenizer.ids(word)[0]

    def logits(self, ids: Sequence[int]) -> FloatArray:
        """What is predicted after `ids`, float64 [vocabulary]."""
        logits = np.zeros(self.info.vocabulary_size)
        logits[self._id("yes")] = self._sum(ids)
        return logits

    def stream_log_probabilities(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        prefix: Prefix | None = None,
    ) -> Iterator[LogProbabilities]:
        """A batch is padded to its longest prompt, and so prompts of similar lengths share it."""
        behind = max(map(len, continuations)) - 1
        batch: list[int] = []
        for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index])):
            if batch and (len(batch) + 1) * (len(prompts[index]) + behind) > max_tokens:
                yield self._batch(batch, prompts, continuations)
                batch = []
            batch.append(index)
        if batch:
            yield self._batch(batch, prompts, continuations)

    def _batch(
        self, batch: Sequence[int], prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> LogProbabilities:
        behind = max(map(len, continuations)) - 1
        read = [tuple(prompts[index]) for index in batch]
        assert all(1 <= len(prompt) + behind <= self.info.context_length for prompt in read)
        self.read.extend(read)
        self.batches.append(len(read) * (max(map(len, read)) + behind))
        measured = [(tuple(each[:place]), each[place]) for each in continuations for place in range(len(each))]
        values = [[self.log_probability((*prompt, *before), token) for before, token in measured] for prompt in read]
        return LogProbabilities(batch, np.array(values), sum(len(prompt) + behind for prompt in read), 0)

    def log_probability(self, ids: Sequence[int], token: int) -> float:
        logits = self.logits(ids)
        return float(logits[token] - np.logaddexp.reduce(logits))

    def generate_greedily(self, ids: Sequence[int], max_tokens: int, *, banned: Collection[int] = ()) -> Iterator[int]:
        read = list(ids)
        for _ in range(max_tokens):
            logits = self.logits(read)
            logits[list(banned)] = -np.inf
            read.append(int(logits.argmax()))
            yield read[-1]

    def in_bfloat16(self) -> tuple[RoundedModel, ...]:
        """Nothing that is faster."""
        return ()

    def read_prefix(self, ids: Sequence[int]) -> None:
        """Nothing that is kept."""

    def _sum(self, sequence: Sequence[int]) -> float:
        counts = Counter(sequence)
        alone = sum(effect * counts[token] for token, effect in self._effects.items())
        return alone + sum(effect for (a, b), effect in self._pairs.items() if counts[a] and counts[b])


YES_RATHER_THAN_NO = Target(ContrastTarget(Continuation(text="yes"), Continuation(text="no")))


class ToyGame:
    """A game given by a function of coalitions, which answers `patience` coalitions before its time is up.

    Attributes:
        asked: how many coalitions it was asked for.
        batch_size: how many it is asked for at once, at least.
    """

    def __init__(self, features: int, value: Callable[[BoolArray], FloatArray], patience: float = float("inf")) -> None:
        self.features = features
        self.asked = 0
        self.batch_size = 1
        self._value = value
        self._patience = patience

    def __call__(self, coalitions: BoolArray) -> Generator[None, None, FloatArray]:
        assert coalitions.dtype == np.bool_
        assert coalitions.shape[1] == self.features
        yield
        values = np.asarray(self._value(coalitions), dtype=np.float64)
        late = self.asked + np.arange(len(values)) >= self._patience
        self.asked += len(values)
        return np.where(late, np.nan, values)


def additive(effects: Sequence[float]) -> ToyGame:
    return ToyGame(len(effects), lambda coalitions: coalitions @ np.array(effects) + 0.5)


def conjunction(features: int, first: int, second: int) -> ToyGame:
    return ToyGame(features, lambda coalitions: (coalitions[:, first] & coalitions[:, second]) * 1.0)


def estimates(explainer: Explainer, game: Game) -> list[Estimate]:
    """All that an explainer reports."""
    return [step for step in explainer(game) if step is not None]


def final(explainer: Explainer, game: ToyGame) -> Estimate:
    """The last estimate of an explainer, in batches as large as it takes: nobody reads the earlier ones."""
    game.batch_size = 10**6
    try:
        return estimates(explainer, game)[-1]
    finally:
        game.batch_size = 1
