"""The value function: coalitions of features in, target values out. Explainers of games see nothing else."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Mapping

import numpy as np

from ml.explain.estimator import Asking, BoolArray, FloatArray
from ml.explain.removal import Ids
from ml.explain.values.cache import ValueCache
from ml.explain.values.checkpoint import Memory
from ml.explain.values.evaluation import Evaluator
from ml.explain.values.prompts import Prompts


class ValueFunction:
    """What the model does when only some features are present.

    It owns removal, the cache and the clock. A coalition is computed once, and so is a prompt, however many
    coalitions lead to it. Where there are several removals, a coalition's value is the mean of theirs.

    Args:
        cache: what the model said in other explanations, to be used and added to.
        scope: up to 64 bytes that keep apart the prompts of `cache` of which it differs, see `cache.scope`.

    Attributes:
        features: the number of features.
        memory: the values known and what finding them cost: all that a checkpoint has to keep.
        deadline: when to stop computing, on `clock`. It is looked at before each chunk.
        answered: prompts whose values went into those given so far, whether they were computed or known.
        computed: prompts computed by this object.
        cached: values given before anything had to be computed, which an earlier attempt knew.
        unkept: evaluations that were charged for and whose findings are not kept yet, so that no checkpoint holds them.
        out_of_time: whether a value was ever withheld because the deadline had passed.
    """

    def __init__(
        self,
        prompts: Prompts,
        evaluator: Evaluator,
        memory: Memory | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        cache: ValueCache | None = None,
        scope: bytes = b"",
    ) -> None:
        self.features = prompts.features
        self.memory = memory if memory is not None else Memory(prompts.features, len(evaluator.objective.rows))
        self.deadline = math.inf
        self.answered = 0
        self.computed = 0
        self.cached = 0
        self.out_of_time = False
        self.unkept = 0
        self._prompts = prompts
        self._evaluator = evaluator
        self._clock = clock
        self._by_prompt: dict[bytes, FloatArray] = {}  # the target's value and its rows', [1 + rows]
        self._beside: BoolArray = np.empty((0, self.features), dtype=np.bool_)
        self._cache = cache
        self._scope = scope

    @property
    def batch_size(self) -> int:
        """How many coalitions to ask for at once at least; see `Evaluator.batch_size`."""
        return self._evaluator.batch_size(len(self._prompts(np.ones(self.features, dtype=np.bool_))))

    def beside(self, coalitions: BoolArray) -> None:
        """Compute `coalitions` together with what is asked for next: without rounding, and for less than apart."""
        self._beside = coalitions

    @property
    def asked_beside(self) -> bool:
        """Whether there are coalitions to be computed together with what is asked for next."""
        return len(self._beside) > 0

    def charge(self, evaluations: int, tokens: int, saved: int = 0) -> None:
        """Count work that an explainer did beside the values: gradients, or passes that look inside the model."""
        self.answered += evaluations
        self.computed += evaluations
        self.unkept += evaluations
        self.memory.evaluations += evaluations
        self.memory.tokens_computed += tokens
        self.memory.tokens_saved += saved

    def keep(self, vectors: Mapping[bytes, FloatArray]) -> None:
        """Remember what the work that was charged for has found, so that a checkpoint holds it."""
        self.memory.vectors.update(vectors)
        self.unkept = 0

    @property
    def late(self) -> bool:
        """Whether the deadline has passed; what is not computed for it counts as withheld."""
        if self._clock() >= self.deadline:
            self.out_of_time = True
            return True
        return False

    def known(self, coalitions: BoolArray) -> FloatArray:
        """The values of `coalitions` as far as they are known, NaN for the others."""
        values = self.memory.values
        return np.array([values[key][0] if key in values else np.nan for key in _keys(coalitions)])

    def row_values(self, coalitions: BoolArray) -> FloatArray:
        """The values of `coalitions` in each of the target's rows, float64 [rows, n]; NaN for those not known."""
        values, nothing = self.memory.values, np.full(1 + self.memory.rows, np.nan)
        found = [values.get(key, nothing) for key in _keys(coalitions)]
        return np.reshape(found, (-1, 1 + self.memory.rows))[:, 1:].T

    def __call__(self, coalitions: BoolArray) -> Asking:
        """The values of `coalitions`, bool [n, features], True where a feature is present. Returns float64 [n].

        Yields after each chunk of work. NaN stands for what was not computed before the deadline.
        """
        beside = len(self._beside)
        coalitions = np.concatenate([self._beside, coalitions])
        self._beside = coalitions[:0]
        exact = 0  # of the prompts, those beside
        values = np.full(len(coalitions), np.nan)
        keys = _keys(coalitions)
        prompts: dict[bytes, Ids] = {}  # what to compute, by digest
        waiting: dict[bytes, list[int]] = {}  # the rows of `values` that wait for it
        variants: dict[int, list[bytes]] = {}  # of each such row, whose mean is its value
        for row, (key, coalition) in enumerate(zip(keys, coalitions, strict=True)):
            numbers = self.memory.values.get(key)
            if numbers is None:
                read = {self._digest(prompt): prompt for prompt in self._prompts.variants(coalition)}
                missing = [digest for digest in read if self._known(digest) is None]
                if missing:
                    for digest in missing:
                        prompts.setdefault(digest, read[digest])
                        waiting.setdefault(digest, []).append(row)
                    variants[row] = list(read)
                    exact = len(prompts) if row < beside else exact
                    continue
                numbers = self.memory.values[key] = self._mean(read)
            values[row] = numbers[0]
            self.answered += self._prompts.removals

        if self.computed == 0:
            self.cached = self.answered
        digests = list(prompts)
        chunks, left = self._evaluator(list(prompts.values()), exact), len(digests)
        while left:
            if self.late:
                break
            chunk = next(chunks)
            found = self._evaluator.objective.numbers(chunk.rows)
            for index, log_probabilities, numbers in zip(chunk.indices, chunk.rows, found, strict=True):
                self._by_prompt[digests[index]] = numbers
                if self._cache is not None:
                    self._cache.put(digests[index], log_probabilities)
                for row in waiting[digests[index]]:
                    if all(digest in self._by_prompt for digest in variants[row]):
                        known = self.memory.values[keys[row]] = self._mean(variants[row])
                        values[row] = known[0]
                        self.answered += self._prompts.removals
            left -= len(chunk.indices)
            self.computed += len(chunk.indices)
            self.memory.evaluations += len(chunk.indices)
            self.memory.tokens_computed += chunk.tokens_computed
            self.memory.tokens_saved += chunk.tokens_saved
            yield
        return values[beside:]

    def _digest(self, prompt: Ids) -> bytes:
        """What a prompt's value is remembered by."""
        return hashlib.blake2b(prompt.tobytes(), digest_size=16, key=self._scope).digest()

    def _mean(self, digests: Collection[bytes]) -> FloatArray:
        """The mean numbers of prompts that are all known, [1 + rows]."""
        total: FloatArray = sum((self._by_prompt[digest] for digest in digests), np.zeros(1 + self.memory.rows))
        return total / len(digests)

    def _known(self, digest: bytes) -> FloatArray | None:
        """The numbers of a prompt that this explanation or one before it computed."""
        known = self._by_prompt.get(digest)
        if known is None and self._cache is not None:
            said = self._cache.get(digest)
            if said is not None:  # which the cache may forget before this explanation ends
                [known] = self._evaluator.objective.numbers(said[None])
                self._by_prompt[digest] = known
        return known

    def evaluate(self, coalitions: BoolArray) -> FloatArray:
        """The same in one go, for a caller to whom the time in between is nothing."""
        asking = self(coalitions)
        while True:
            try:
                next(asking)
            except StopIteration as done:
                values: FloatArray = done.value
                return values


def _keys(coalitions: BoolArray) -> list[bytes]:
    """What each coalition is remembered by."""
    return [row.tobytes() for row in np.packbits(coalitions, axis=1)]
