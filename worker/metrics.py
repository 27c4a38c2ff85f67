"""The worker's metrics, kept by the parent so that none are lost when a child dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from ml.models.served.metrics import EngineMetrics
from worker.protocol import Asked, Began, Ended

# From 1 ms to 80 s.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
UNKNOWN_METHOD = "unknown"


class PortError(Exception):
    """The port of the metrics page is in use or not allowed."""


class Metrics:
    """All metrics of one worker, in a registry of its own."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        self._jobs = Counter(
            "gloss_jobs_total", "Attempts at explanations that ended.", ("method", "outcome"), registry=registry
        )
        self._waiting = Histogram(
            "gloss_job_waiting_seconds",
            "Time that an explanation waits for a worker, each time that it does.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._running_seconds = Histogram(
            "gloss_job_running_seconds", "Time of an attempt.", ("method",), buckets=_SECONDS, registry=registry
        )
        self._yields = Counter(
            "gloss_job_yields_total", "Times that an explanation gave way to others.", ("method",), registry=registry
        )
        self._evaluations = Counter(
            "gloss_model_evaluations_total", "Prompts whose value was computed.", ("method",), registry=registry
        )
        self._tokens = Counter(
            "gloss_job_tokens_total",
            "Tokens of explanations, by kind: computed, or saved by reuse.",
            ("kind",),
            registry=registry,
        )
        self._running = Gauge("gloss_jobs_running", "Explanations being worked on.", registry=registry)
        self.child_restarts = Counter(
            "gloss_worker_child_restarts_total", "Times that the model's process was replaced.", registry=registry
        )
        self.load_seconds = Gauge("gloss_model_load_seconds", "Time of the last load of the model.", registry=registry)
        self.queue_depth = Gauge("gloss_queue_depth", "Explanations waiting for this model.", registry=registry)
        self.fork_server_bytes = Gauge(
            "gloss_worker_fork_server_resident_bytes",
            "Memory of the process from which the model's process is forked, which shares most of it.",
            registry=registry,
        )
        self._engine = EngineMetrics(registry)
        for kind in ("computed", "saved"):
            self._tokens.labels(kind)
        self._method = UNKNOWN_METHOD

    @contextmanager
    def page(self, host: str, port: int) -> Iterator[str]:
        """Serve the metrics page at a port, 0 for any free one. Yields its HOST:PORT.

        Raises:
            PortError: the port cannot be opened.
        """
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            advice = "set GLOSS_WORKER_METRICS_PORT to another"
            raise PortError(f"port {port} cannot be opened on {host} ({error.strerror}); {advice}") from error
        try:
            yield f"{host}:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def began(self, message: Began) -> None:
        """Count an attempt that has begun."""
        self._method = message.method
        self._waiting.observe(message.waited_seconds)
        self._running.set(1)

    def ended(self, message: Ended) -> None:
        """Count an attempt that has ended, with its costs."""
        self._running.set(0)
        method, self._method = self._method, UNKNOWN_METHOD
        if message.outcome == "skipped":
            return
        if message.outcome == "yielded":  # no attempt has ended
            self._yields.labels(method).inc()
            return
        self._jobs.labels(method, message.outcome).inc()
        self._running_seconds.labels(method).observe(message.seconds)
        self._evaluations.labels(method).inc(message.evaluations)
        self._tokens.labels("computed").inc(message.tokens_computed)
        self._tokens.labels("saved").inc(message.tokens_saved)

    def asked(self, message: Asked) -> None:
        """Count a request to the engine that serves the model elsewhere."""
        self._engine.note(
            message.outcome, message.seconds, message.in_flight, message.prompt_tokens, message.cached_tokens
        )

    def lost(self, seconds: float) -> None:
        """Count an attempt whose child died."""
        self.ended(Ended("lost", seconds))
