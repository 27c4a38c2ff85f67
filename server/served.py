"""Questions about models that external engines compute: asked over HTTP on the event loop, without a thread or torch.

It offers the services what `server.engine.Engine` does. Batching is the engine's; what is bounded here is how many
prompts wait for it, and how many of each caller's. Callers take turns in asking.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ml.generation import Generation
from ml.models.served import texts
from ml.models.served.asking import ask
from ml.models.served.client import EngineClient
from ml.models.served.completions import Answer, Likely, Query
from ml.models.served.exchange import Exchange
from ml.models.served.opening import Found
from ml.models.served.salts import Salts
from ml.models.served.stream import Engine
from ml.models.served.window import asked_by
from ml.prediction import Prediction, Score
from server import calls
from server.admission import Admission, Load, QueueOverflowError
from server.errors import OverloadedError
from server.questions import AttentionTask, NextTokenTask, ScoreTask, Task
from server.replica_checks import ReplicaChecks
from server.served_text import ServedText

_PATIENCE_SECONDS = 5.0
"""For which a question is asked again while the engine is away: callers would rather know."""

_RETRY_SECONDS = 1.0
"""After which a refused caller may try again."""


class ServedEngine:
    """Asks external engines. All methods are for the event loop that made it."""

    def __init__(self, models: Mapping[str, Found], observe: Callable[[Exchange], None], *, max_waiting: int) -> None:
        """Answer questions about `models`.

        Args:
            observe: is called for every request that has ended.
            max_waiting: prompts that may wait for one model's answers; more are refused at once, but for callers who
                have less than an equal share of them.
        """
        self._models = models
        self._engines = {
            name: Engine(
                EngineClient(found.address, replace(found.options, patience=_PATIENCE_SECONDS), observe),
                found.abilities,
                found.fingerprint,
            )
            for name, found in models.items()
        }
        self._checks = {name: ReplicaChecks(engine) for name, engine in self._engines.items()}
        self._admissions = {name: Admission(max_waiting) for name in models}
        self._salts = Salts()

    async def stop(self) -> None:
        """Close all connections."""
        for engine in self._engines.values():
            await engine.client.aclose()

    def check_capacity(self, model: str, caller: Hashable = None, prompts: int = 1) -> None:
        """Spare a caller the work of preparing tasks that would be refused.

        Raises:
            OverloadedError: too many prompts wait for `model` already.
        """
        try:
            self._admissions[model].check(caller, Load(items=prompts))
        except QueueOverflowError:
            raise OverloadedError(_RETRY_SECONDS) from None

    async def submit(
        self,
        model: str,
        tasks: Sequence[Task],
        *,
        caller: Hashable = None,
        namespace: str = "",
        seconds: float | None = None,
    ) -> calls.Answer:
        """Answer `tasks`, some in one request. Whoever stops waiting ends the requests.

        Args:
            caller: who asks; the prompts of each are counted.
            namespace: whose prefixes the engine may use.
            seconds: nobody waits for the answer any longer than this.

        Raises:
            OverloadedError: too many prompts are waiting already; nothing was asked.
            EngineError: the engine gave no answer that could be used, or computes another model by now.
        """
        began = time.monotonic()
        values: list[Any] = [None] * len(tasks)
        with self._counted(model, caller, len(tasks)):
            patience = _PATIENCE_SECONDS if seconds is None else min(seconds, _PATIENCE_SECONDS)
            asking = [
                self._ask(model, query, patience, values, indices)
                for query, indices in self._queries(model, tasks, self._salts.of(namespace))
            ]
            await _together(*asking)
        for index, task in enumerate(tasks):
            values[index] = _value(task, values[index])
        return calls.Answer(tuple(values), 0.0, time.monotonic() - began, (0,) * len(tasks))

    def generate(
        self,
        model: str,
        ids: Sequence[int],
        generation: Generation,
        *,
        caller: Hashable = None,
        namespace: str = "",
    ) -> ServedText:
        """Begin to continue `ids`.

        Args:
            caller: who asks; the prompts of each are counted.
            namespace: whose prefixes the engine may use.

        Raises:
            OverloadedError: too many prompts are waiting already.
        """
        self.check_capacity(model, caller)
        found, engine = self._models[model], self._engines[model]
        asked = texts.body(
            found.address.model,
            ids,
            generation.spec,
            found.abilities,
            max_tokens=generation.max_tokens,
            banned=generation.banned,
            salt=self._salts.of(namespace),
        )
        return ServedText(engine, self._checks[model], asked, generation, lambda: self._counted(model, caller))

    async def _ask(self, model: str, query: Query, patience: float, values: list[Any], indices: Sequence[int]) -> None:
        """Put the answers to `query` where they belong."""
        engine = self._engines[model]
        reply = await ask(engine.client, query, engine.abilities, patience=patience)
        await self._checks[model].passed(reply.replica)
        for index, answer in zip(indices, reply.value, strict=True):
            values[index] = answer
        if query.tail or not query.top:
            return
        short = [index for index in indices if not values[index].top]
        if short:
            by_index = dict(zip(indices, query.sequences, strict=True))
            # Whatever stands in the last place: what is listed is what could.
            sequences = [(*by_index[index], by_index[index][-1]) for index in short]
            found = await engine.listed(sequences, query.top, salt=query.salt, patience=patience)
            for index, top in zip(short, found, strict=True):
                values[index] = Answer(top=top)

    def _queries(self, model: str, tasks: Sequence[Task], salt: str) -> Iterator[tuple[Query, Sequence[int]]]:
        """Tasks that are asked alike share requests, each of which comes with the indices of its tasks."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, task in enumerate(tasks):
            if isinstance(task, AttentionTask):
                raise TypeError("an external engine gives no attention; `ml.attention.resolve` refuses it")
            groups[len(task.continuation) if isinstance(task, ScoreTask) else 0, task.top_k].append(index)
        size = self._engines[model].client.window.request
        for (tail, top), indices in groups.items():
            for start in range(0, len(indices), size):
                some = indices[start : start + size]
                sequences = tuple(_sequence(tasks[index]) for index in some)
                yield Query(sequences, tail=tail, top=top, salt=salt), some

    @contextmanager
    def _counted(self, model: str, caller: Hashable, prompts: int = 1) -> Iterator[None]:
        """Count prompts as waiting, and let their caller take turns with others; or refuse them."""
        self.check_capacity(model, caller, prompts)
        admission, load = self._admissions[model], Load(items=prompts)
        admission.enter(caller, load)
        try:
            with asked_by(caller):
                yield
        finally:
            admission.leave(caller, load)


async def _together(*work: Any) -> None:
    """Do all of `work`; where one fails, the others are ended."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _sequence(task: Task) -> tuple[int, ...]:
    return (*task.prompt, *task.continuation) if isinstance(task, ScoreTask) else task.ids


def _value(task: Task, answer: Answer) -> Prediction | Score:
    """What a task's caller gets of an engine's answer."""
    if isinstance(task, NextTokenTask):
        return _prediction(answer.top)
    return Score(
        log_probabilities=tuple(each.log_probability for each in answer.tail),
        ranks=tuple(each.rank for each in answer.tail),
        predictions=tuple(_prediction(each.top) for each in answer.tail if each.top),
    )


def _prediction(top: Likely) -> Prediction:
    return Prediction(tuple(token for token, _ in top), tuple(value for _, value in top), None)
