"""The value function: coalitions of features in, target values out. Explainers of games see nothing else."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ml.explain.estimator import Asking, BoolArray, FloatArray
from ml.explain.removal import Ids
from ml.explain.values.cache import ValueCache
from ml.explain.values.checkpoint import Memory
from ml.explain.values.evaluation import Evaluator
from ml.explain.values.prompts import Prompts
from ml.models.protocol import LogProbabilities


class ValueFunction:
    """What the model does when only some features are present.

    It owns removal, the cache and the clock. Every coalition is computed once, and so is every prompt, however many
    coalitions lead to it. With several removals, a coalition's value is the weighted mean over them,
    or follows from how much each changes: `Prompts.slopes`.

    Args:
        cache: the model's log-probabilities from other explanations, to be used and added to.
        scope: up to 64 bytes that distinguish prompts in `cache`; see `cache.scope`.

    Attributes:
        features: the number of features.
        memory: known values and their cost: all that a checkpoint keeps.
        deadline: when to stop computing, on `clock`; checked before each chunk.
        answered: prompts behind the values returned so far, computed or known; each coalition counts once.
        computed: prompts computed by this object.
        cached: prompts behind the values returned before anything was computed, which an earlier attempt knew.
        unkept: evaluations that were charged, but whose results are not in `memory` yet, nor in a checkpoint.
        out_of_time: whether the deadline has ever prevented an evaluation.
        seconds_per_token: how long the latest chunk took for each of its tokens; None before the first.
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
        self._asked: set[bytes] = set()  # the coalitions that count
        self.computed = 0
        self.cached = 0
        self.out_of_time = False
        self.unkept = 0
        self._prompts = prompts
        self._evaluator = evaluator
        self._clock = clock
        self._by_prompt: dict[bytes, FloatArray] = {}  # the target's value and its rows', [1 + rows]
        self._added: BoolArray = np.empty((0, self.features), dtype=np.bool_)
        self._cache = cache
        self._scope = scope
        self.seconds_per_token: float | None = None

    @property
    def chunk_tokens(self) -> int:
        """Tokens of the next chunk of work: fewer if a whole one would end after the deadline."""
        whole, each = self._evaluator.tokens_per_chunk, self.seconds_per_token
        if each is None or math.isinf(self.deadline) or not self._evaluator.takes_small_chunks:
            return whole
        return max(1, int(min(whole, self.seconds_left / each)))

    @property
    def seconds_left(self) -> float:
        """Until the deadline; negative after it."""
        return self.deadline - self._clock()

    @property
    def batch_size(self) -> int:
        """The fewest coalitions to ask for at once; see `Evaluator.batch_size`."""
        return self._evaluator.batch_size(len(self._prompts(np.ones(self.features, dtype=np.bool_))))

    def add_to_next(self, coalitions: BoolArray) -> None:
        """Compute `coalitions` with the next request: in the model's own precision, and cheaper than apart."""
        self._added = coalitions

    @property
    def has_added(self) -> bool:
        """Whether coalitions wait to be computed with the next request."""
        return len(self._added) > 0

    def charge(self, evaluations: int, tokens: int, saved: int = 0) -> None:
        """Count evaluations other than values: gradients, or passes that look inside the model."""
        self.answered += evaluations
        self.computed += evaluations
        self.unkept += evaluations
        self.memory.evaluations += evaluations
        self.memory.tokens_computed += tokens
        self.memory.tokens_saved += saved

    def keep(self, vectors: Mapping[bytes, FloatArray]) -> None:
        """Keep the results of charged evaluations, so that a checkpoint has them."""
        self.memory.vectors.update(vectors)
        self.unkept = 0

    @property
    def late(self) -> bool:
        """Whether the deadline has passed, so that an evaluation is skipped: `out_of_time` records it."""
        if self._clock() >= self.deadline:
            self.out_of_time = True
            return True
        return False

    def known(self, coalitions: BoolArray) -> FloatArray:
        """The values of `coalitions` that are known, NaN for the others."""
        return self._known_values(_keys(coalitions))

    def row_values(self, coalitions: BoolArray) -> FloatArray:
        """The values of `coalitions` for each row of the target, float64 [rows, n]; NaN for those not known."""
        values, nothing = self.memory.values, np.full(1 + self.memory.rows, np.nan)
        found = [values.get(key, nothing) for key in _keys(coalitions)]
        return np.reshape(found, (-1, 1 + self.memory.rows))[:, 1:].T

    def __call__(self, coalitions: BoolArray) -> Asking:
        """The values of `coalitions`, bool [n, features], True where a feature is present. Returns float64 [n].

        Yields after each chunk of work. NaN stands for what was not computed before the deadline.
        """
        added = len(self._added)
        coalitions = np.concatenate([self._added, coalitions])
        self._added = coalitions[:0]
        keys, missing = _keys(coalitions), _Missing()
        exact = 0  # how many of the missing prompts are those of the added coalitions
        for index, (key, coalition) in enumerate(zip(keys, coalitions, strict=True)):
            if self._is_known(key, coalition, index, missing):
                self._count(key)
            elif index < added:
                exact = len(missing.prompts)
        if self.computed == 0:
            self.cached = self.answered
        yield from self._compute(missing, keys, exact)
        return self._known_values(keys)[added:]

    def _count(self, key: bytes) -> None:
        """Count the prompts of a coalition that has a value, the first time that it is asked for."""
        if key not in self._asked:
            self._asked.add(key)
            self.answered += self._prompts.removals

    def _is_known(self, key: bytes, coalition: BoolArray, index: int, missing: _Missing) -> bool:
        """Whether a coalition's value is known. If not, its prompts are added to `missing`."""
        if key in self.memory.values:
            return True
        prompts: dict[bytes, Ids] = {}
        weights: dict[bytes, float] = {}
        variants = self._prompts.variants(coalition)
        for prompt, weight in zip(variants, self._prompts.weights, strict=True):
            digest = self._digest(prompt)
            prompts[digest] = prompt
            weights[digest] = weights.get(digest, 0.0) + weight
        parts = _Parts(weights)
        if (factors := self._prompts.slopes(coalition)) is not None:
            full = self._prompts(np.ones(self.features, dtype=np.bool_))
            parts = _Parts(weights, dict(zip(map(self._digest, variants), factors, strict=True)), self._digest(full))
            prompts.setdefault(parts.full, full)
        unknown = [digest for digest in prompts if self._known(digest) is None]
        if not unknown:
            self.memory.values[key] = self._value(parts)
            return True
        for digest in unknown:
            missing.prompts.setdefault(digest, prompts[digest])
            missing.waiting.setdefault(digest, []).append(index)
        missing.parts[index] = parts
        return False

    def _compute(self, missing: _Missing, keys: Sequence[bytes], exact: int) -> Generator[None, None, None]:
        """Compute the missing prompts until the deadline. Yields after each chunk.

        Args:
            keys: of the coalitions, by their index.
            exact: how many of the first prompts are computed in the model's own precision.
        """
        left = dict(missing.prompts)
        digests, chunks = list(left), self._evaluator(list(left.values()), exact)
        while left and not self.late:
            if (tokens := self.chunk_tokens) < self._evaluator.tokens_per_chunk:
                digests, chunks = list(left), self._evaluator(list(left.values()), tokens=tokens)
            chunk = self._timed(chunks)
            found = self._evaluator.objective.numbers(chunk.rows)
            for prompt, log_probabilities, numbers in zip(chunk.indices, chunk.rows, found, strict=True):
                digest = digests[prompt]
                del left[digest]
                self._by_prompt[digest] = numbers
                if self._cache is not None:
                    self._cache.put(digest, log_probabilities)
                for index in missing.waiting[digest]:
                    parts = missing.parts[index]
                    if all(each in self._by_prompt for each in parts.needed):
                        self.memory.values[keys[index]] = self._value(parts)
                        self._count(keys[index])
            self.computed += len(chunk.indices)
            self.memory.evaluations += len(chunk.indices)
            self.memory.tokens_computed += chunk.tokens_computed
            self.memory.tokens_saved += chunk.tokens_saved
            yield

    def _timed(self, chunks: Iterator[LogProbabilities]) -> LogProbabilities:
        """The next chunk. Measures how long it takes."""
        began = self._clock()
        chunk = next(chunks)
        if chunk.tokens_computed:
            self.seconds_per_token = (self._clock() - began) / chunk.tokens_computed
        return chunk

    def _known_values(self, keys: Sequence[bytes]) -> FloatArray:
        """The values of coalitions by their keys, NaN for those not known."""
        values = self.memory.values
        return np.array([values[key][0] if key in values else np.nan for key in keys])

    def _digest(self, prompt: Ids) -> bytes:
        """The key of a prompt."""
        return hashlib.blake2b(prompt.tobytes(), digest_size=16, key=self._scope).digest()

    def _value(self, parts: _Parts) -> FloatArray:
        """A coalition's numbers from those of its prompts, which are known, [1 + rows]."""
        if parts.factors is None:
            return self._mean(parts.weights)
        full, total = self._by_prompt[parts.full], np.zeros(1 + self.memory.rows)
        for digest, weight in parts.weights.items():
            change = parts.factors[digest] * (full - self._by_prompt[digest])
            total += weight * change * np.abs(change)
        mean = total / sum(parts.weights.values())
        value: FloatArray = full - np.sign(mean) * np.sqrt(np.abs(mean))
        return value

    def _mean(self, weights: Mapping[bytes, float]) -> FloatArray:
        """The weighted mean of the numbers of known prompts, [1 + rows]."""
        if len(weights) == 1:  # multiplying by the weight could change the last bit
            [digest] = weights
            return self._by_prompt[digest].copy()
        weighted = (weight * self._by_prompt[digest] for digest, weight in weights.items())
        total: FloatArray = sum(weighted, np.zeros(1 + self.memory.rows))
        return total / sum(weights.values())

    def _known(self, digest: bytes) -> FloatArray | None:
        """The numbers of a prompt, if this explanation or an earlier one computed them."""
        known = self._by_prompt.get(digest)
        if known is None and self._cache is not None:
            log_probabilities = self._cache.get(digest)
            if log_probabilities is not None:  # kept here too, as the cache may evict them
                [known] = self._evaluator.objective.numbers(log_probabilities[None])
                self._by_prompt[digest] = known
        return known

    def evaluate(self, coalitions: BoolArray) -> FloatArray:
        """The values of `coalitions`, without yielding in between."""
        asking = self(coalitions)
        while True:
            try:
                next(asking)
            except StopIteration as done:
                values: FloatArray = done.value
                return values


@dataclass(frozen=True)
class _Parts:
    """What a coalition's value is made of.

    Attributes:
        weights: how much each of its prompts counts, by digest.
        factors: see `Prompts.slopes`, by digest.
        full: with factors, the prompt of the full coalition.
    """

    weights: Mapping[bytes, float]
    factors: Mapping[bytes, float] | None = None
    full: bytes = b""

    @property
    def needed(self) -> Iterator[bytes]:
        """The prompts whose numbers it takes."""
        yield from self.weights
        if self.factors is not None:
            yield self.full


@dataclass
class _Missing:
    """The prompts that have to be computed for some coalitions.

    Attributes:
        prompts: by digest.
        waiting: by digest, the coalitions that need it, by index.
        parts: what each coalition's value is made of.
    """

    prompts: dict[bytes, Ids] = field(default_factory=dict)
    waiting: dict[bytes, list[int]] = field(default_factory=dict)
    parts: dict[int, _Parts] = field(default_factory=dict)


def _keys(coalitions: BoolArray) -> list[bytes]:
    """The key of each coalition."""
    return [row.tobytes() for row in np.packbits(coalitions, axis=1)]
