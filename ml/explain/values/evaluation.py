"""From prompts to log-probabilities of the target's tokens: the only place of the explainers that runs the model.

Whatever makes that cheaper belongs here, and only here: the value function above sees prompts go in and rows of
log-probabilities come out, chunk by chunk.
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
"""Tokens to ask an external engine for at least: some hundred short prompts. It idles between two such questions."""
_MIN_TOKENS_PER_PREFIX_TOKEN = 4
"""Tokens of the prompts behind their shared prefix, for each token of it, that make a trial worth reading it twice."""
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
    about three of the truth on a server's processor, and meant for "seconds or hours?". None of an external engine, of
    which nothing of the kind is known.
    """
    if info.engine:
        return None
    rate = _CPU_OPERATIONS if info.device.startswith("cpu") else _DEVICE_OPERATIONS
    return tokens * 2 * info.parameters / rate


class Evaluator:
    """Asks a model for the log-probabilities of a target's tokens after many prompts.

    With faster models of lower precision, the first large request is a trial; see `ml.explain.values.trial`.

    Attributes:
        objective: makes a target's values of the log-probabilities.
        precision: what values are computed in from now on, and the largest error that the trial found.
        rounding: what is known of the errors of that precision; None where it is the model's own.
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
            shared_prefix: tokens that every prompt begins with and is longer than.
            max_evaluations: about how many prompts will come in all: of few, none are computed twice.
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
        self._budget = tokens_per_chunk or chunk_tokens(model.info)

    @property
    def noise(self) -> float:
        """Standard deviation of a value, by what an external engine computes beside; 0 of a model loaded here."""
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
        sample = Sample.of(len(prompts) - exact, self._max_evaluations) if self._faster else None
        if sample is not None and self._worth_reading_twice(prompts):
            yield from self._try(prompts, exact, sample)
            rest -= {*range(exact), *(exact + i for i in sample.exact)}
        yield from self._chunks(self._model, prompts, sorted(rest))

    def _worth_reading_twice(self, prompts: Sequence[Ids]) -> bool:
        """Whether `prompts` are more than their shared prefix, which each model reads for itself."""
        rest = sum(len(prompt) - len(self._shared_prefix) for prompt in prompts)
        return rest >= _MIN_TOKENS_PER_PREFIX_TOKEN * len(self._shared_prefix)

    def _try(self, prompts: Sequence[Ids], exact: int, sample: Sample) -> Iterator[LogProbabilities]:
        """Compute the first `exact` prompts and a `sample` of the others, and choose the way to go on."""
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
        """The target's value and its rows', [1 + rows], by prompt, counted from the first after `exact` ones."""
        return dict(zip((i - exact for i in chunk.indices), self.objective.numbers(chunk.rows), strict=True))

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
