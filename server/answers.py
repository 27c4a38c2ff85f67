"""What services get back from an engine, wherever the model is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What became of a call's tasks."""

    values: tuple[Any, ...]
    """One value a task, in the call's order."""

    queue_seconds: float
    """Time that the call waited for the model, altogether."""

    model_seconds: float
    """Time of the batches that its tasks ran in."""

    cached_tokens: tuple[int, ...]
    """How many first tokens of each task came from the prefix cache, in the call's order."""
