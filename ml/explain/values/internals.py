"""One prompt inside a model: gradients, attention rollout and value zeroing, by feature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from ml.explain.estimator import Estimating, FloatArray
from ml.explain.removal import Perturbation
from ml.explain.target import TargetTokens
from ml.explain.values.checkpoint import evaluations_of, vector_key
from ml.explain.values.evaluation import MIN_PREFIX, rough_seconds
from ml.explain.values.value_function import ValueFunction
from ml.models.protocol import ExplainableModel, ModelInternals, Prefix

_GRADIENT_COST = 3
"""The cost of a gradient in values: the backward pass has two matmuls for each of the forward pass."""
_SHARE_OF_TIME = 0.5
"""Of the time that is left, what gradients may take that only tell where to look first."""


@runtime_checkable
class InternalsExplainer(Protocol):
    """An explainer that looks inside the model. Otherwise as `ml.explain.estimator.Explainer`."""

    @property
    def max_evaluations(self) -> int:
        """The most evaluations that it takes."""
        ...

    @property
    def min_evaluations(self) -> int:
        """The fewest evaluations that it needs."""
        ...

    @property
    def in_units(self) -> bool:
        """Whether attributions are in the value's unit; otherwise they are shares."""
        ...

    def explain(self, prompt: PromptInternals) -> Estimating:
        """Estimate every feature's attribution."""
        ...


class PromptInternals:
    """One prompt inside a model.

    Attributes:
        game: the prompt's value function, which keeps the clock and the costs.
        features: the number of features.
        rows: the number of the target's rows.
        numbers: whose gradients to take: 0 for the target's value, unless it is the sum of the rows', and from 1 for
            those of the rows.
    """

    def __init__(
        self,
        model: ExplainableModel,
        internals: ModelInternals,
        perturbation: Perturbation,
        target: TargetTokens,
        game: ValueFunction,
    ) -> None:
        """A prompt in `model`, whose internals are `internals`."""
        self.game = game
        self.features = perturbation.features
        self.rows = len(target.rows)
        self.numbers = range(1 if target.is_sum_of_rows else 0, 1 + self.rows)
        self._model = model
        self._internals = internals
        self._perturbation = perturbation
        self._target = target
        self._tokens = len(perturbation.ids) + len(target.appended)

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return self.game.late

    @property
    def batch_size(self) -> int:
        """How many gradients to ask for at once."""
        return max(1, self.game.chunk_tokens // (_GRADIENT_COST * (self._tokens - self._cached)))

    def path_gradients(self, points: FloatArray, numbers: Sequence[int], *, from_removed: bool) -> FloatArray:
        """Gradient × path at points of a path to the prompt's embeddings, float64 [points, features].

        See `ml.models.protocol.ModelInternals.path_gradients`.

        Args:
            points: where to take gradients, from 0 at the start of the path to 1 at the prompt.
            numbers: for each point, of what: 0 for the target's value, from 1 for those of the rows.
            from_removed: whether the path starts with every feature removed, rather than at embeddings of zeros.
        """
        kind = b"r" if from_removed else b"z"
        keys = [vector_key(kind, *each) for each in zip(points.tolist(), numbers, strict=True)]
        vectors = self.game.memory.vectors
        missing = [index for index, key in enumerate(keys) if key not in vectors]
        self.game.answered += len(points) - len(missing)
        if missing:
            missing_numbers = [numbers[index] for index in missing]
            found = self._gradients(points[missing], missing_numbers, from_removed=from_removed)
            self.game.keep({keys[index]: each for index, each in zip(missing, found, strict=True)})
        return np.array([vectors[key] for key in keys])

    def _gradients(self, points: FloatArray, numbers: Sequence[int], *, from_removed: bool) -> list[FloatArray]:
        ids = self._read(removed=False)
        found = self._internals.path_gradients(
            ids,
            self._target.objective,
            points=points,
            numbers=numbers,
            baseline=self._read(removed=True) if from_removed else None,
            prefix=self._prefix,
        )
        self.game.charge(len(points), len(points) * len(ids), saved=len(points) * self._cached)
        return [self._by_feature(each) for each in found]

    def key_gradients(self, numbers: Sequence[int]) -> FloatArray | None:
        """How much values depend on how much is seen of each feature, to first order, float64 [numbers, features].

        None where the model does not show it (see `ml.models.protocol.ModelInternals.key_gradients`), or where it would
        take more than a half of the time that is left.

        Args:
            numbers: which values: 0 for the target's, from 1 for those of the rows. Each counts as an evaluation.
        """
        keys, none = [vector_key(b"k", 1, number) for number in numbers], vector_key(b"k")
        vectors = self.game.memory.vectors
        if none in vectors:
            return None
        if not all(key in vectors for key in keys):
            found = None
            if self._seconds_of_gradients(len(numbers)) <= _SHARE_OF_TIME * self.game.seconds_left:
                found = self._internals.key_gradients(self._sequence, self._target.objective, numbers)
            if found is None:
                # Another attempt may have more memory or time. It goes on as this one began.
                self.game.keep({none: np.full(self.features, np.nan)})
                return None
            self.game.charge(len(numbers), self._tokens)
            by_feature = [self._by_feature(each) for each in np.where(np.isfinite(found), found, 0.0)]
            self.game.keep(dict(zip(keys, by_feature, strict=True)))
        else:
            self.game.answered += len(numbers)
        return np.array([vectors[key] for key in keys])

    def _seconds_of_gradients(self, count: int) -> float:
        """About how long gradients of so many values take, which share a forward pass."""
        tokens = self._tokens * (1 + count * _GRADIENT_COST)
        each = self.game.seconds_per_token
        return (rough_seconds(self._model.info, tokens) or 0.0) if each is None else tokens * each

    def attention_rollout(self) -> FloatArray:
        """Attention rollout by feature, float64 [features], mean over the positions that predict the target.

        The rest of 1 is on tokens that belong to no feature.
        """
        if (known := self._known(b"a")) is not None:
            return known
        shares = self._internals.attention_rollout(self._sequence, self._queries)
        self.game.charge(1, self._tokens)
        return self._kept(b"a", 1, shares.mean(axis=0, dtype=np.float64))

    def value_zeroing_rollout(self) -> Iterator[FloatArray | None]:
        """As `attention_rollout`, by value zeroing rolled out over the layers. Yields None after each batch before."""
        if (known := self._known(b"v")) is not None:
            yield known
            return
        layers, done, total = self._model.info.layers, 0, 0
        work = self._internals.value_zeroing_rollout(self._sequence, self._queries, max_tokens=self.game.chunk_tokens)
        while True:
            try:
                positions = next(work)
            except StopIteration as finished:
                yield self._kept(b"v", total, finished.value.mean(axis=0, dtype=np.float64))
                return
            before, done = done, done + positions
            # A batch of positions goes through one layer, and a sequence counts once it has gone through all layers.
            sequences, tokens = (done // (layers * n) - before // (layers * n) for n in (self._tokens, 1))
            self.game.charge(sequences, tokens)
            total += sequences
            yield None

    def _known(self, kind: bytes) -> FloatArray | None:
        """The vector of this kind in memory, from an earlier attempt or earlier in this one; it counts as evaluated."""
        for key, found in self.game.memory.vectors.items():
            if key.startswith(kind):
                self.game.answered += evaluations_of(key)
                return found
        return None

    def _kept(self, kind: bytes, evaluations: int, tokens: FloatArray) -> FloatArray:
        """Numbers of all tokens, summed by feature and kept in memory."""
        found = self._by_feature(tokens)
        self.game.keep({vector_key(kind, evaluations): found})
        return found

    def _by_feature(self, tokens: FloatArray) -> FloatArray:
        """Sums by feature, float64 [features], of numbers of all tokens, or of the last ones."""
        owner = self._perturbation.owner[self._tokens - len(tokens) :]
        numbers = tokens[: len(owner)]
        mine = owner >= 0
        return np.bincount(owner[mine], weights=numbers[mine], minlength=self.features).astype(np.float64)

    def _read(self, *, removed: bool) -> list[int]:
        """What the model reads after the prefix: the prompt, whole or with every feature removed, and the target."""
        kept = np.full(self.features, not removed)
        return [*self._perturbation(kept).tolist(), *self._target.appended][self._cached :]

    @cached_property
    def _prefix(self) -> Prefix | None:
        """The tokens that never change, read once, where that pays."""
        ids = self._perturbation.shared_prefix
        if not self._perturbation.keeps_positions or len(ids) < MIN_PREFIX:
            return None
        prefix = self._model.read_prefix(ids)
        if prefix is not None:
            self.game.charge(0, prefix.length)
        return prefix

    @property
    def _cached(self) -> int:
        return self._prefix.length if self._prefix else 0

    @property
    def _sequence(self) -> list[int]:
        return [*self._perturbation.ids.tolist(), *self._target.appended]

    @property
    def _queries(self) -> Sequence[int]:
        """The positions that predict the target."""
        return range(self._tokens - self._target.positions, self._tokens)
