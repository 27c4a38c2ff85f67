"""How the engine runs each kind of task: what it asks of the model, and what it computes from the output."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ml import attention, predict
from ml.models.base import Chunk, LanguageModel, Runner
from ml.models.internals.attention_maps import attend
from server.calls import Work
from server.questions import AttentionTask, LogitsTask, NextTokenTask, ScoreTask, Task

_LOGIT_BYTES = 4


def batch_key(work: Work) -> Hashable:
    """Tasks of equal batch key may run together: those about logits do; attention runs alone."""
    return work if isinstance(work.task, AttentionTask) else work.model


def output_bytes(model: LanguageModel, task: Task) -> int:
    """Memory for a task's output of the model."""
    if isinstance(task, AttentionTask):
        return task.plan.reply_bytes
    return task.rows * model.info.vocabulary_size * _LOGIT_BYTES


@dataclass(frozen=True)
class Outcome:
    """The results of tasks of one batch key.

    Attributes:
        values: one for each task, in order.
        cached_tokens: for each task how many of its first tokens the runner's prefix cache held; None where the cache
            was not asked.
        tokens_computed: positions that went through the model, padding left out.
        tokens_padding: positions of padding that went through it.
    """

    values: Sequence[Any]
    cached_tokens: Sequence[int | None]
    tokens_computed: int
    tokens_padding: int = 0


def run(model: LanguageModel, runner: Runner, tasks: Sequence[Task], namespaces: Sequence[str]) -> Outcome:
    """Run tasks of one batch key on a model and its runner.

    Args:
        namespaces: of each task, whose cached prefixes it may use.
    """
    match tasks:
        case [AttentionTask() as task]:
            return Outcome([attend(model, task.ids, task.plan)], [None], len(task.ids))
        case _:
            return _run_logits(runner, [task for task in tasks if not isinstance(task, AttentionTask)], namespaces)


def one_of_each_kind(model: LanguageModel) -> Iterator[Task]:
    """One task of each kind, so that no caller waits for what a model does only once."""
    ids = (0,) * min(16, model.info.context_length)
    yield NextTokenTask(ids)
    yield ScoreTask(ids[:1], (0,))
    if model.info.heads:
        plan = attention.resolve(attention.AttentionSpec(), model.info, len(ids))
        yield AttentionTask(ids, plan)


def _run_logits(runner: Runner, tasks: Sequence[LogitsTask], namespaces: Sequence[str]) -> Outcome:
    pairs = zip(tasks, namespaces, strict=True)
    result = runner.step([Chunk(task.ids, task.rows, namespace=namespace) for task, namespace in pairs])
    values = values_of(tasks, result.logits)
    return Outcome(values, result.cached_tokens, result.tokens_computed, result.tokens_padding)


def values_of(tasks: Sequence[LogitsTask], logits: Sequence[torch.Tensor]) -> list[Any]:
    """The value of each task.

    Args:
        logits: of each task, float32 [rows, vocabulary].

    Raises:
        GlossError: a row is not a distribution.
    """
    values: list[Any] = [
        predict.score(rows, task.continuation, task.top_k) if isinstance(task, ScoreTask) else None
        for task, rows in zip(tasks, logits, strict=True)
    ]
    # All predictions of a batch take one pass over their logits, and one copy from the device.
    predicted = [(place, task) for place, task in enumerate(tasks) if isinstance(task, NextTokenTask)]
    if predicted:
        predictions = predict.next_token(
            torch.cat([logits[place] for place, _ in predicted]),
            [task.top_k for _, task in predicted],
            [task.temperature for _, task in predicted],
        )
        for (place, _), prediction in zip(predicted, predictions, strict=True):
            values[place] = prediction
    return values
