"""What the child keeps for all of its jobs: the model, the store, the value cache."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from jobs.attempts import AttemptStore
from jobs.connection import connect
from jobs.outage import Outage
from ml.explain.values.cache import ValueCache
from ml.memory import expect_to_stay, keep_freed_memory
from ml.models.protocol import ExplainableModel, ModelInfo
from ml.models.requirements import check_torch
from ml.models.served.address import is_served_elsewhere
from worker.interruption import Interruption
from worker.protocol import Asked, Message
from worker.settings import Settings


@dataclass(frozen=True)
class WorkerContext:
    """What tasks need in addition to their arguments; they find it in `current`, as RQ passes nothing else.

    Attributes:
        model: loaded once.
        store: retries through a restart of Redis, for writes that must not fail.
        reports: fails fast, for writes that may be skipped.
        interruption: signals from the parent, as exceptions.
        notify: sends a message to the parent.
        max_job_seconds: limit of an attempt's running time.
        outage: logs failures of Redis.
        job_slice_seconds: how long an explanation runs before it yields to others that wait.
        caches_by_tenant: whether tenants do not share cached values.
        cache: values of perturbed prompts from earlier jobs, as long as the process lives.
    """

    model: ExplainableModel
    store: AttemptStore
    reports: AttemptStore
    interruption: Interruption
    notify: Callable[[Message], None]
    max_job_seconds: float
    outage: Outage
    job_slice_seconds: float = 10.0
    caches_by_tenant: bool = True
    cache: ValueCache = field(default_factory=ValueCache)


current: ContextVar[WorkerContext] = ContextVar("worker_context")


def load_context(settings: Settings, notify: Callable[[Message], None]) -> ModelInfo:
    """Load the model, or open the one that is served elsewhere, and set `current`. Returns the model's description.

    Raises:
        ModelLoadError: the model cannot be loaded.
    """
    keep_freed_memory()
    model = _served(settings, notify) if is_served_elsewhere(settings.model) else _loaded(settings)
    expect_to_stay()
    limits = {"retention_seconds": settings.retention_seconds, "max_attempts": settings.max_attempts}
    current.set(
        WorkerContext(
            model=model,
            store=AttemptStore(connect(settings.redis_url), **limits),
            reports=AttemptStore(connect(settings.redis_url, patient=False), **limits),
            interruption=Interruption(),
            notify=notify,
            max_job_seconds=settings.max_job_seconds,
            outage=Outage(logging.getLogger(__name__)),
            job_slice_seconds=settings.job_slice_seconds,
            caches_by_tenant=settings.caches_by_tenant,
        )
    )
    return model.info


# Each imports its own dependencies: a worker for a model that is served elsewhere has no torch.


def _loaded(settings: Settings) -> ExplainableModel:
    check_torch()
    from ml.models.loading import load  # noqa: PLC0415
    from ml.runtime.device import behind  # noqa: PLC0415

    behind()
    return load(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.worker_threads or settings.threads,
        max_bytes=settings.max_model_bytes,
    )


def _served(settings: Settings, notify: Callable[[Message], None]) -> ExplainableModel:
    from ml.models.served.exchange import Exchange  # noqa: PLC0415
    from ml.models.served.model import open_model  # noqa: PLC0415

    def observe(each: Exchange) -> None:
        notify(Asked(each.outcome, each.seconds, each.in_flight, each.prompt_tokens, each.cached_tokens))

    return open_model(settings.model, settings.engine, observe)
