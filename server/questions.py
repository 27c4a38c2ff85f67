"""Tasks for a model, wherever it is computed. Nothing here needs tensors or an engine."""

from __future__ import annotations

from dataclasses import dataclass

from ml import attention


@dataclass(frozen=True, slots=True)
class NextTokenTask:
    """The most likely tokens after `ids`. Its value is a `predict.Prediction`."""

    ids: tuple[int, ...]
    top_k: int = 1
    temperature: float = 1.0

    @property
    def rows(self) -> int:
        """How many of the last positions have their logits computed."""
        return 1


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """How likely `continuation` is after `prompt`, and its `top_k` alternatives. Its value is a `predict.Score`."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]
    top_k: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens but the last, whose successor is not asked for."""
        return self.prompt + self.continuation[:-1]

    @property
    def rows(self) -> int:
        """How many of the last positions have their logits computed: each predicts a token of the continuation."""
        return len(self.continuation)


@dataclass(frozen=True, slots=True)
class AttentionTask:
    """The weights of `plan` for `ids`. Its value is an `attention.AttentionMap`."""

    ids: tuple[int, ...]
    plan: attention.AttentionPlan


LogitsTask = NextTokenTask | ScoreTask
Task = LogitsTask | AttentionTask
