"""Health by service: inference as the server stands, explanations as Redis and the workers come and go."""

from __future__ import annotations

import asyncio
import logging
import math

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from server.interceptors import Context
from server.metrics import Metrics
from server.registry import Registry
from server.store import Store

_logger = logging.getLogger(__name__)

OVERALL = ""
INFERENCE = "gloss.v1.InferenceService"
EXPLANATION = "gloss.v1.ExplanationService"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class _Servicer(aio.HealthServicer):  # type: ignore[misc]  # it has no types
    """gRPC's own, with the method that it lacks: each call of it would write a traceback into the log."""

    async def List(  # noqa: N802
        self, request: health_pb2.HealthListRequest, context: Context
    ) -> health_pb2.HealthListResponse:
        """The status of every service."""
        return health_pb2.HealthListResponse(
            statuses={
                service: await self.Check(health_pb2.HealthCheckRequest(service=service), context)
                for service in (OVERALL, INFERENCE, EXPLANATION)
            }
        )


class Health:
    """Statuses for ``grpc.health.v1``: all NOT_SERVING until set otherwise."""

    def __init__(self) -> None:
        self.servicer = _Servicer()

    async def begin(self) -> None:
        """Nothing is ready yet."""
        for service in (OVERALL, INFERENCE, EXPLANATION):
            await self.servicer.set(service, _NOT_SERVING)

    async def inference_ready(self) -> None:
        """The models are warm. From here on the server as a whole is healthy, even if Redis fails."""
        for service in (OVERALL, INFERENCE):
            await self.servicer.set(service, _SERVING)

    async def explanations_ready(self, ready: bool) -> None:
        """Whether explanations can be computed now."""
        await self.servicer.set(EXPLANATION, _SERVING if ready else _NOT_SERVING)

    async def end(self) -> None:
        """The server is stopping: nothing is ready any more."""
        await self.servicer.enter_graceful_shutdown()


async def watch_explanations(
    health: Health, store: Store, registry: Registry, metrics: Metrics, seconds: float
) -> None:
    """Check Redis and the workers every `seconds`, forever, and keep health and queue depths up to date.

    Explanations are ready while Redis answers and a worker is alive for some model of this server.
    """
    before: str | None = "not checked yet"
    while True:
        obstacle = await _look(store, registry, metrics)
        await health.explanations_ready(obstacle is None)
        if obstacle != before:
            _logger.info("explanations: %s", obstacle or "ready")
            before = obstacle
        await asyncio.sleep(seconds)


async def _look(store: Store, registry: Registry, metrics: Metrics) -> str | None:
    """Why explanations cannot be computed now, or None. Also updates the queue depths."""
    ready = False
    try:
        await store.probe()
        for name, model in registry.items():
            metrics.explanation_queue_depth.labels(name).set(await store.queue_depth(name))
            ready |= await store.worker_alive(name, model.info.digest)
    except Exception as error:  # noqa: BLE001 -- the watch goes on after any error
        for name in registry:
            metrics.explanation_queue_depth.labels(name).set(math.nan)
        return f"the store cannot be used ({type(error).__name__})"
    return None if ready else "no worker is alive"
