"""From prompts to log-probabilities of the target's tokens: the only place of the explainers that runs the model.

Whatever makes that cheaper belongs here, and only here: the value function above sees prompts go in and rows of
log-probabilities come out, chunk by chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ml.errors import GlossError
from ml.explain.removal import Ids
from ml.explain.target import TargetTokens
from ml.models.protocol import ExplainableModel, LogProbabilities, ModelInfo, Prefix
from ml.result import Precision

_CPU_OPERATIONS = 2e11
_DEVICE_OPERATIONS = 1e13
_ENGINE_TOKENS = 16384
"""Tokens to ask an engine elsewhere for at least: some hundred short prompts. It idles between two such questions."""
_TRIAL = 8
"""Prompts that a trial of a faster model computes twice."""
_SMALL_TRIAL = 4
"""The same where a job has few prompts."""
_MIN_TOKENS_PER_PREFIX_TOKEN = 4
"""Tokens of the prompts behind their shared prefix, for each token of it, that make a trial worth reading it twice."""
_LAST = 2
"""Prompts at the end that are part of every trial."""
MIN_PREFIX = 16
"""Tokens of a shared prefix from which on it is read apart, once for all requests."""


def chunk_tokens(info: ModelInfo) -> int:
    """Tokens of one chunk, padding included: about a second of work, so that progress and cancellation come through.

    Made from the model's size and device and never from a clock: a matrix product's last bits depend on its shape, so
    the same run could not give the same bits twice if its chunks followed the machine's mood.
    """
    if info.engine:
        return _ENGINE_TOKENS
    operations, smallest, largest = (
        (_CPU_OPERATIONS, 256, 2048) if info.device.startswith("cpu") else (_DEVICE_OPERATIONS, 2048, 65536)
    )
    return int(min(max(operations / (2 * max(info.parameters, 1)), smallest), largest))


def rough_seconds(info: ModelInfo, tokens: int) -> float | None:
    """How long reading `tokens` tokens may take, from the model's size and the kind of device alone: within a factor of
    about three of the truth on a server's processor, and meant for "seconds or hours?". None of an engine elsewhere, of
    which nothing of the kind is known.
    """
    if info.engine:
        return None
    rate = _CPU_OPERATIONS if info.device.startswith("cpu") else _DEVICE_OPERATIONS
    return tokens * 2 * info.parameters / rate


class Evaluator:
    """Asks a model for the log-probabilities of a target's tokens after many prompts.

    With a `fast` model of lower precision, the first large request is a trial: some of its prompts are computed with
    both, and the fast one does the rest of the work if its error is small beside the values' own spread. That spread
    is what the effects and, where an explainer samples, its sampling error are made of, so a share of it of
    `TOLERANCE` leaves attributions that correlate with the exact ones by more than 0.999.

    Attributes:
        objective: makes a target's values of the log-probabilities.
        precision: what values are computed in from now on, and the largest error that the trial found.
    """

    TOLERANCE = 0.04
    """Largest root mean square of the fast values' errors, as a share of the values' standard deviation.

    Three quarters of it for a small sample: a few errors are small by luck more easily.
    """

    def __init__(
        self,
        model: ExplainableModel,
        target: TargetTokens,
        *,
        fast: ExplainableModel | None = None,
        shared_prefix: Sequence[int] = (),
        max_evaluations: int = 1000,
        tokens_per_chunk: int | None = None,
    ) -> None:
        """Ask `model` about `target`.

        Args:
            fast: the same model in lower precision.
            shared_prefix: tokens that every prompt begins with and is longer than.
            max_evaluations: about how many prompts will come in all: a trial is smaller where they are few.
            tokens_per_chunk: tokens of one chunk, padding included. Default: `chunk_tokens` of the model.
        """
        self.objective = target.objective
        self.precision = Precision(model.info.dtype, noise=model.info.noise or None)
        self._model = model
        self._candidate = fast
        self._given = target.given
        self._shared_prefix = shared_prefix if len(shared_prefix) >= MIN_PREFIX else ()
        self._trial_size = _TRIAL if max_evaluations >= 16 * _TRIAL else _SMALL_TRIAL
        self._prefixes: dict[int, Prefix | None] = {}  # by the model's identity
        self._budget = tokens_per_chunk or chunk_tokens(model.info)

    @property
    def noise(self) -> float:
        """Standard deviation of a value, by what an engine elsewhere computes beside; 0 of a model loaded here."""
        pairs = zip(self.objective.weights, self.objective.sizes, strict=True)
        return self._model.info.noise * math.sqrt(sum(weight**2 * size for weight, size in pairs))

    def row_noise(self, tokens: int) -> float:
        """As `noise`, of the value of a row of so many tokens."""
        return self._model.info.noise * math.sqrt(tokens)

    def batch_size(self, tokens: int) -> int:
        """How many prompts of `tokens` tokens to ask for at least: a chunk's where few would leave a GPU idle."""
        return 1 if self._model.info.device.startswith("cpu") else max(1, self._budget // max(1, tokens))

    def __call__(self, prompts: Sequence[Ids], exact: int = 0) -> Iterator[LogProbabilities]:
        """Log-probabilities after `prompts`, a chunk at a time and in whatever order suits the work.

        Args:
            exact: how many of the first prompts are not given to the fast model, should it be chosen for the others.

        Raises:
            GlossError: the model answers with something that is not a number.
        """
        rest = set(range(len(prompts)))
        others = len(prompts) - exact
        if self._candidate is not None and others >= 2 * _TRIAL and self._worth_a_trial(prompts):
            sample = {exact + i: weight for i, weight in _sample(others, self._trial_size).items()}
            yield from self._trial(self._candidate, prompts, range(exact), sample)
            rest -= {*range(exact), *sample}
        yield from self._chunks(self._model, prompts, sorted(rest))

    def _worth_a_trial(self, prompts: Sequence[Ids]) -> bool:
        """Whether the rest of `prompts` is more than their shared prefix, which either model reads for itself."""
        rest = sum(len(prompt) - len(self._shared_prefix) for prompt in prompts)
        return rest >= _MIN_TOKENS_PER_PREFIX_TOKEN * len(self._shared_prefix)

    def _trial(
        self, fast: ExplainableModel, prompts: Sequence[Ids], exactly: Sequence[int], sample: Mapping[int, float]
    ) -> Iterator[LogProbabilities]:
        """Compute `exactly`, and `sample` both ways, and choose the way to go on. See `_sample`."""
        exact, rough = dict[int, float](), dict[int, float]()
        for chunk in self._chunks(fast, prompts, list(sample)):
            rough.update(self._values(chunk))
            yield replace(chunk, indices=[], rows=chunk.rows[:0])
        for chunk in self._chunks(self._model, prompts, [*exactly, *sample]):
            exact.update(self._values(chunk))
            if len(exact) == len(exactly) + len(sample):
                self._candidate = None
                weights = np.array(list(sample.values())) / (len(prompts) - len(exactly))
                values = np.array([exact[i] for i in sample])
                errors = np.array([rough[i] for i in sample]) - values
                spread = np.sqrt(weights @ (values - weights @ values) ** 2)
                tolerance = self.TOLERANCE * (1 if self._trial_size >= _TRIAL else 0.75)
                if np.sqrt(weights @ errors**2) <= tolerance * spread:
                    self._model = fast
                    self.precision = Precision(fast.info.dtype, float(np.abs(errors).max()))
            yield chunk

    def _values(self, chunk: LogProbabilities) -> dict[int, float]:
        """The target's values by prompt."""
        values = self.objective.values(chunk.rows)
        return dict(zip(chunk.indices, values.tolist(), strict=True))

    def _chunks(
        self, model: ExplainableModel, prompts: Sequence[Ids], chosen: Sequence[int]
    ) -> Iterator[LogProbabilities]:
        """Log-probabilities after the `chosen` prompts."""
        if self._shared_prefix and id(model) not in self._prefixes:
            prefix = self._prefixes[id(model)] = model.read_prefix(self._shared_prefix)
            yield LogProbabilities([], np.empty((0, sum(self.objective.sizes))), prefix.length if prefix else 0, 0)
        batches = model.stream_log_probabilities(
            [[*prompts[i].tolist(), *self._given] for i in chosen],
            self.objective.continuations,
            max_tokens=self._budget,
            prefix=self._prefixes.get(id(model)),
        )
        for batch in batches:
            if not np.isfinite(self.objective.values(batch.rows)).all():
                raise GlossError(
                    f"model {self._model.info.name!r} gives no finite probability; its weights may be damaged"
                )
            yield replace(batch, indices=[chosen[index] for index in batch.indices])


def _sample(prompts: int, size: int) -> dict[int, float]:
    """Prompts for a trial, by index, and how many prompts each stands for: some of all, and the last ones.

    Where a feature after the other is left out, a next token depends most on the last: few prompts in which all of the
    spread may lie. The later, the cheaper.
    """
    others, size = prompts - _LAST, size - _LAST
    sample = {(i + 1) * others // size - 1: others / size for i in range(size)}
    return sample | dict.fromkeys(range(others, prompts), 1.0)
