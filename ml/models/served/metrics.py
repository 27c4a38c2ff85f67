"""What server and worker count alike of an external engine."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From 1 ms to 80 s.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)

_OUTCOMES = ("ok", "overloaded", "failed", "unusable", "refused", "away", "cancelled")


class EngineMetrics:
    """Requests to an engine, in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "gloss_engine_requests_total",
            "Requests to the engine that serves the model elsewhere, by how they ended.",
            ("outcome",),
            registry=registry,
        )
        self._seconds = Histogram(
            "gloss_engine_request_seconds",
            "Time of a request to the engine that was answered.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "gloss_engine_prompt_tokens_total",
            "Prompt tokens by the engine's own count: all, or cached ones, where it reports them.",
            ("kind",),
            registry=registry,
        )
        self._in_flight = Gauge(
            "gloss_engine_prompts_in_flight", "Prompts that the engine was asked for at last.", registry=registry
        )
        for outcome in _OUTCOMES:
            self._requests.labels(outcome)
        for kind in ("all", "cached"):
            self._tokens.labels(kind)

    def note(self, outcome: str, seconds: float, in_flight: int, prompt_tokens: int, cached_tokens: int) -> None:
        """Count a request that has ended; see `ml.models.served.exchange.Exchange`."""
        self._requests.labels(outcome).inc()
        if outcome == "ok":
            self._seconds.observe(seconds)
        self._tokens.labels("all").inc(prompt_tokens)
        self._tokens.labels("cached").inc(cached_tokens)
        self._in_flight.set(in_flight)
