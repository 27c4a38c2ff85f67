"""What explanations and studies share: progress, time limits, checkpoints, and the value function."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from typing import Protocol, TypedDict, TypeVar, Unpack

from ml.explain import numbers
from ml.explain.target import TargetTokens
from ml.explain.values.cache import ValueCache, scope
from ml.explain.values.checkpoint import Memory
from ml.explain.values.evaluation import Evaluator, chunk_tokens_within, rough_seconds
from ml.explain.values.prompts import Prompts
from ml.explain.values.trial import MIN_EVALUATIONS
from ml.explain.values.value_function import ValueFunction
from ml.models.protocol import ExplainableModel, Marking, Namespaced
from ml.result import Cost, ExplanationResult, Precision, Progress, Stage, StopReason, StudyResult, Update
from ml.spec import Budget, PrecisionPolicy

_PARTIAL_SECONDS = 0.25
_PARTIAL_SHARE = 0.05
"""The largest share of the time that partial results may take."""
_PROGRESS_SECONDS = 0.05

T = TypeVar("T")


class Task(Protocol):
    """A `Problem` or a `StudyProblem`, as far as `Work` needs it."""

    @property
    def prompts(self) -> Prompts:
        """The prompts that the value function evaluates."""
        ...

    @property
    def max_evaluations(self) -> int:
        """The most evaluations."""
        ...

    def tokens(self, evaluations: int) -> int:
        """The most tokens that the model reads for so many evaluations."""
        ...

    def fingerprint(self, target: TargetTokens) -> bytes:
        """32 bytes, equal for equal value functions."""
        ...


class AttemptOptions(TypedDict, total=False):
    """What an attempt may be given beside its question.

    Attributes:
        cache: values of earlier work with any model, to be used and added to. Not used where the precision may change,
            as the trial that decides it must not depend on earlier questions.
        namespace: of `cache`, and of the model's caches: only values of the same namespace are used. Default: "".
        spent: seconds of the budget's duration that are used up. Default: 0.
        clock: seconds, from any start. Default: `time.monotonic`.
    """

    cache: ValueCache | None
    namespace: str
    spent: float
    clock: Callable[[], float]


class Work:
    """An attempt at a question. Iterate over it once: it yields updates as it works, the last with the judged result.

    Between two updates lies a chunk of work (about a second), or several short ones, as updates come no faster than a
    person can follow. To cancel, stop iterating.

    Equal specs and models give equal draws, and on one machine equal numbers to the bit. Resuming from a checkpoint
    repeats the draws over the values computed before. Results are then within 1e-5 of those of an undisturbed run, as
    values computed in other batches may differ in their last bits.

    The budget's duration limits this attempt alone; the result's cost counts all attempts. An attempt that yielded may
    go on as another `Work`, whose `spent` says how much of the duration is used up.
    """

    def __init__(
        self,
        model: ExplainableModel,
        task: Task,
        budget: Budget,
        precision: PrecisionPolicy,
        checkpoint: bytes | None = None,
        **options: Unpack[AttemptOptions],
    ) -> None:
        """Solve `task` with `model`.

        `checkpoint` is that of an earlier attempt. One that is damaged or of another problem is ignored.
        """
        namespace = options.get("namespace", "")
        self._model = model.for_namespace(namespace) if isinstance(model, Namespaced) else model
        self._task = task
        self._budget = budget
        self._tries_bfloat16 = precision is PrecisionPolicy.AUTO
        self._clock = options.get("clock", time.monotonic)
        self._cache, self._namespace = options.get("cache"), namespace
        if checkpoint and isinstance(self._model, Marking):
            checkpoint = self._model.unmarked(checkpoint)
        self._given = checkpoint or b""
        self._fingerprint = b""
        self._value: ValueFunction | None = None
        self._started = self._clock()
        self._spent = options.get("spent", 0.0)
        self._seconds_before = 0.0
        self._findings_before = 0
        self._planned = task.max_evaluations
        self._last_progress = self._next_partial = -math.inf

    def checkpoint(self) -> bytes:
        """What another attempt needs to go on from here; the given checkpoint as long as there is nothing to add."""
        if self._value is not None:
            self._value.memory.seconds = self._seconds_before + self._elapsed
            return self._marked(self._value.memory.pack(self._fingerprint))
        return self._given and self._marked(self._given)

    def _marked(self, packed: bytes) -> bytes:
        return self._model.marked(packed) if isinstance(self._model, Marking) else packed

    @property
    def resumable(self) -> bool:
        """Whether a checkpoint made now would have everything that was computed, and more than the given one."""
        value = self._value
        return value is not None and not value.unkept and value.memory.findings > self._findings_before

    def _open(self, target: TargetTokens) -> ValueFunction:
        """The value function, with the values of an earlier attempt."""
        self._fingerprint = self._task.fingerprint(target)
        prompts = self._task.prompts
        features, rows = prompts.features, len(target.rows)
        memory = Memory.unpack(self._given, self._fingerprint, features, rows) or Memory(features, rows)
        self._seconds_before, self._findings_before = memory.seconds, memory.findings
        tries = self._tries_bfloat16 and self._task.max_evaluations >= MIN_EVALUATIONS
        faster = self._model.in_bfloat16() if tries else ()
        self._evaluator = Evaluator(
            self._model,
            target,
            faster=faster,
            shared_prefix=prompts.shared_prefix,
            max_evaluations=self._task.max_evaluations,
            tokens_per_chunk=chunk_tokens_within(self._model.info, self._budget.max_duration),
        )
        self._value = ValueFunction(
            prompts,
            self._evaluator,
            memory,
            self._clock,
            cache=None if faster else self._cache,
            scope=scope(self._model.info, target, self._namespace),
        )
        return self._value

    def _reported(self, work: Generator[None, None, T], stage: Stage) -> Generator[Update, None, T]:
        """Do some work and yield its progress."""
        while True:
            try:
                next(work)
            except StopIteration as done:
                finished: T = done.value
                return finished
            if self._due:
                yield self._update(stage)

    def _update(self, stage: Stage, result: ExplanationResult | StudyResult | None = None) -> Update:
        now = self._last_progress = self._clock()
        if result is not None:
            numbers.check(result)
            self._next_partial = now + _PARTIAL_SECONDS
        answered = self._value.answered if self._value else 0
        planned = max(self._planned, answered)
        return Update(Progress(answered, planned, stage, self._remaining, self._task.tokens(planned)), result)

    def _affords_partial(self, seconds: float) -> bool:
        """Whether a partial result that takes so many `seconds` keeps within its share of the time so far."""
        return seconds <= _PARTIAL_SHARE * self._elapsed

    def _delay_partial(self, seconds: float) -> None:
        """Delay the next partial result in proportion to the `seconds` that the last one took."""
        self._next_partial = max(self._next_partial, self._clock() + seconds / _PARTIAL_SHARE)

    def _cost(self, value: ValueFunction, stop: StopReason | None) -> Cost:
        """The cost so far of all attempts together."""
        memory = value.memory
        return Cost(
            evaluations=memory.evaluations,
            tokens_computed=memory.tokens_computed,
            tokens_saved=memory.tokens_saved,
            cache_hits=max(0, value.answered - memory.evaluations),
            duration=self._seconds_before + self._elapsed,
            stop_reason=stop,
            price=None if (price := self._model.info.token_price) is None else memory.tokens_computed * price,
        )

    @property
    def _precision(self) -> Precision:
        return self._evaluator.precision

    @property
    def _due(self) -> bool:
        """Whether it is time for an update."""
        return self._clock() - self._last_progress >= _PROGRESS_SECONDS

    @property
    def _due_partial(self) -> bool:
        """Whether it is time for a partial result."""
        return self._clock() >= self._next_partial

    @property
    def _elapsed(self) -> float:
        return self._clock() - self._started

    @property
    def _seconds_each(self) -> float | None:
        """Mean seconds of an evaluation of this attempt; None before the first."""
        fresh = self._value.answered - self._value.cached if self._value and self._value.computed else 0
        return self._elapsed / fresh if fresh > 0 else None

    @property
    def _remaining(self) -> float | None:
        each, limit = self._seconds_each, self._budget.max_duration
        if self._value is None or (each is None and not self._value.answered):
            rough = rough_seconds(self._model.info, self._task.tokens(self._planned))
            if rough is None:
                return None
            remaining = rough
        elif each is None:
            return None  # all values are an earlier attempt's: there is no throughput yet
        else:
            remaining = max(0, self._planned - self._value.answered) * each
        return remaining if limit is None else max(0.0, min(remaining, limit - self._spent - self._elapsed))

    def _deadline(self, reserved: int = 0) -> float:
        """When the method has to stop, on the clock. At most half of the time is kept for `reserved` evaluations."""
        limit = self._budget.max_duration
        if limit is None:
            return math.inf
        return self._started + limit - self._spent - min(limit / 2, reserved * (self._seconds_each or 0.0))
