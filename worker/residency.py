"""What the child holds for all of its jobs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from jobs.attempts import AttemptStore
from jobs.connection import connect
from jobs.outage import Outage
from ml.explain.cache import ValueCache
from ml.memory import expect_to_stay, keep_freed_memory
from ml.models.base import LanguageModel, ModelInfo
from ml.models.loading import load
from ml.runtime.device import behind
from worker.interruption import Interruption
from worker.protocol import Message
from worker.settings import Settings


@dataclass(frozen=True)
class Residency:
    """The model and the ways out of the process. A task is called with its arguments alone, so it finds these here.

    Attributes:
        model: loaded once.
        store: rides out a restart of Redis, for what must be written.
        reports: gives up soon, for what may be left out.
        interruption: the signals.
        notify: sends a message to the parent.
        max_job_seconds: the longest time of one attempt.
        outage: what the child has seen of Redis failing.
        cache: values that jobs before found, for as long as the process lives.
    """

    model: LanguageModel
    store: AttemptStore
    reports: AttemptStore
    interruption: Interruption
    notify: Callable[[Message], None]
    max_job_seconds: float
    outage: Outage
    cache: ValueCache = field(default_factory=ValueCache)


current: ContextVar[Residency] = ContextVar("residency")


def move_in(settings: Settings, notify: Callable[[Message], None]) -> ModelInfo:
    """Load the model and make this process its resident.

    Raises:
        ModelLoadError: the model cannot be loaded.
    """
    keep_freed_memory()
    behind()
    model = load(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.worker_threads or settings.threads,
        max_bytes=settings.max_model_bytes,
    )
    expect_to_stay()
    limits = {"retention_seconds": settings.retention_seconds, "max_attempts": settings.max_attempts}
    current.set(
        Residency(
            model=model,
            store=AttemptStore(connect(settings.redis_url), **limits),
            reports=AttemptStore(connect(settings.redis_url, patient=False), **limits),
            interruption=Interruption(),
            notify=notify,
            max_job_seconds=settings.max_job_seconds,
            outage=Outage(logging.getLogger(__name__)),
        )
    )
    return model.info
