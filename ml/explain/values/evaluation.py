"""From prompts to log-probabilities of the target's tokens: the only place that runs the model for values.

Whatever makes that cheaper belongs here: the value function sees prompts go in and log-probabilities come out, chunk by
chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ml.errors import GlossError
from ml.explain.estimator import FloatArray
from ml.explain.removal import Ids
from ml.explain.target import TargetTokens
from ml.explain.values.trial import Rounding, Sample, Trial
from ml.models.protocol import ExplainableModel, LogProbabilities, ModelInfo, Prefix, RoundedModel
from ml.result import Precision

_CPU_OPERATIONS = 2e11
_DEVICE_OPERATIONS = 1e13
_ENGINE_TOKENS = 16384
"""The fewest tokens of a request to an external engine, some hundred short prompts: it idles between requests."""
_SHARE_OF_DURATION = 0.2
"""The most of a duration that one chunk is expected to take."""
_MIN_TOKENS_PER_PREFIX_TOKEN = 4
"""Tokens of the prompts after their shared prefix, per token of it, from which a trial is worth reading it twice."""
MIN_PREFIX = 16
"""Tokens from which a shared prefix is read apart, once for all requests."""


def chunk_tokens(info: ModelInfo) -> int:
    """Tokens of one chunk, padding included: about a second of work between updates and checks for cancellation.

    Computed from the model's size and device, not measured: the last bits of a matrix product depend on its shape, so
    that chunks of varying size would change the results from run to run.
    """
    if info.engine:
        return _ENGINE_TOKENS
    operations, smallest, largest = (
        (_CPU_OPERATIONS, 256, 2048) if info.device.startswith("cpu") else (_DEVICE_OPERATIONS, 2048, 65536)
    )
    return int(min(max(operations / (2 * max(info.parameters, 1)), smallest), largest))


def rough_seconds(info: ModelInfo, tokens: int) -> float | None:
    """Seconds that reading so many tokens may take, by the model's size and device; None for an external engine.

    Within a factor of about three on a server's processor: enough to tell seconds from hours.
    """
    if info.engine:
        return None
    rate = _CPU_OPERATIONS if info.device.startswith("cpu") else _DEVICE_OPERATIONS
    return tokens * 2 * info.parameters / rate


def chunk_tokens_within(info: ModelInfo, duration: float | None) -> int:
    """As `chunk_tokens`, or fewer if work that may take `duration` seconds in all would stop late."""
    tokens, seconds = chunk_tokens(info), rough_seconds(info, 1)
    if duration is None or seconds is None:
        return tokens
    return max(1, int(min(tokens, _SHARE_OF_DURATION * duration / seconds)))


class Evaluator:
    """Asks a model for the log-probabilities of a target's tokens after prompts.

    If faster models of lower precision are given, the first large request is a trial; see `ml.explain.values.trial`.

    Attributes:
        objective: from log-probabilities to the target's values.
        tokens_per_chunk: tokens of one chunk, padding included, unless a request asks for fewer.
        precision: the current precision of values, and the largest error that the trial found.
        rounding: the errors of that precision, as measured; None if it is the model's own.
    """

    def __init__(
        self,
        model: ExplainableModel,
        target: TargetTokens,
        *,
        faster: Sequence[RoundedModel] = (),
        shared_prefix: Sequence[int] = (),
        max_evaluations: int = 1000,
        tokens_per_chunk: int | None = None,
    ) -> None:
        """Ask `model` about `target`.

        Args:
            faster: the same model in lower precision, the fastest first.
            shared_prefix: tokens that every prompt begins with, and is longer than.
            max_evaluations: about how many prompts there will be in all: a trial is not worth it for few.
            tokens_per_chunk: tokens of one chunk, padding included. Default: `chunk_tokens` of the model.
        """
        self.objective = target.objective
        self.precision = Precision(model.info.dtype, noise=model.info.noise or None)
        self._model = model
        self.rounding: Rounding | None = None
        self._faster = faster
        self._max_evaluations = max_evaluations
        self._given = target.given
        self._shared_prefix = shared_prefix if len(shared_prefix) >= MIN_PREFIX else ()
        self._prefixes: dict[int, Prefix | None] = {}  # by the model's identity
        self.tokens_per_chunk = tokens_per_chunk or chunk_tokens(model.info)

    @property
    def takes_small_chunks(self) -> bool:
        """Whether chunks of fewer tokens cost little more: not during a trial, nor with an external engine."""
        return not self._faster and not self._model.info.engine

    @property
    def noise(self) -> float:
        """Standard deviation of a value from an external engine; 0 for a model loaded here."""
        pairs = zip(self.objective.weights, self.objective.sizes, strict=True)
        return self._model.info.noise * math.sqrt(sum(weight**2 * size for weight, size in pairs))

    def row_noise(self, tokens: int) -> float:
        """As `noise`, for a row of so many tokens."""
        return self._model.info.noise * math.sqrt(tokens)

    def batch_size(self, tokens: int) -> int:
        """The fewest prompts of `tokens` tokens to ask for at once: a chunk's on a GPU, which fewer leave idle."""
        return 1 if self._model.info.device.startswith("cpu") else max(1, self.tokens_per_chunk // max(1, tokens))

    def __call__(
        self, prompts: Sequence[Ids], exact: int = 0, *, tokens: int | None = None
    ) -> Iterator[LogProbabilities]:
        """Log-probabilities after `prompts`, a chunk at a time, in any order.

        Args:
            exact: how many of the first prompts are computed in the model's own precision in any case.
            tokens: tokens of one chunk outside a trial. Default: `tokens_per_chunk`.

        Raises:
            GlossError: a log-probability is not finite.
        """
        rest = set(range(len(prompts)))
        sample = Sample.of(len(prompts) - exact, self._max_evaluations) if self._faster else None
        if sample is not None and self._worth_reading_twice(prompts):
            yield from self._try(prompts, exact, sample)
            rest -= {*range(exact), *(exact + i for i in sample.exact)}
        yield from self._chunks(self._model, prompts, sorted(rest), tokens)

    def _worth_reading_twice(self, prompts: Sequence[Ids]) -> bool:
        """Whether `prompts` are much longer than their shared prefix, which each model of a trial has to read."""
        rest = sum(len(prompt) - len(self._shared_prefix) for prompt in prompts)
        return rest >= _MIN_TOKENS_PER_PREFIX_TOKEN * len(self._shared_prefix)

    def _try(self, prompts: Sequence[Ids], exact: int, sample: Sample) -> Iterator[LogProbabilities]:
        """Compute the first `exact` prompts and a `sample` of the others, and choose the model for the rest."""
        found = dict[int, FloatArray]()
        for chunk in self._chunks(self._model, prompts, [*range(exact), *(exact + i for i in sample.exact)]):
            found.update(self._numbers(chunk, exact))
            yield chunk
        trial = Trial(sample, found)
        for one in trial.worth_trying(self._faster):
            rough = dict[int, FloatArray]()
            for chunk in self._chunks(one.model, prompts, [exact + i for i in sample.tried]):
                rough.update(self._numbers(chunk, exact))
                yield replace(chunk, indices=[], rows=chunk.rows[:0])
            if rounding := trial.passed(np.array([rough[i] for i in sample.tried])):
                self._model, self.rounding = one.model, rounding
                self.precision = Precision(one.model.info.dtype, rounding.largest)
                break
        self._faster = ()

    def _numbers(self, chunk: LogProbabilities, exact: int) -> dict[int, FloatArray]:
        """The values of the target and its rows, [1 + rows], by the prompt's index less `exact`."""
        return dict(zip((i - exact for i in chunk.indices), self.objective.numbers(chunk.rows), strict=True))

    def _chunks(
        self, model: ExplainableModel, prompts: Sequence[Ids], chosen: Sequence[int], tokens: int | None = None
    ) -> Iterator[LogProbabilities]:
        """Log-probabilities after the `chosen` prompts."""
        if self._shared_prefix and id(model) not in self._prefixes:
            prefix = self._prefixes[id(model)] = model.read_prefix(self._shared_prefix)
            yield LogProbabilities([], np.empty((0, sum(self.objective.sizes))), prefix.length if prefix else 0, 0)
        batches = model.stream_log_probabilities(
            [[*prompts[i].tolist(), *self._given] for i in chosen],
            self.objective.continuations,
            max_tokens=tokens or self.tokens_per_chunk,
            prefix=self._prefixes.get(id(model)),
        )
        for batch in batches:
            if not np.isfinite(self.objective.values(batch.rows)).all():
                raise GlossError(
                    f"model {self._model.info.name!r} gives no finite probability; its weights may be damaged"
                )
            yield replace(batch, indices=[chosen[index] for index in batch.indices])
