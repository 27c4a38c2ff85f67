"""What the server counts, and the page that Prometheus reads it from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ml.models.protocol import ModelInfo
from ml.models.served.exchange import Exchange
from ml.models.served.metrics import EngineMetrics

if TYPE_CHECKING:  # a server of models that are served elsewhere has no torch
    from ml.models.base import Runner

# From 1 ms to 80 s, about two buckets an octave where answers usually lie.
SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.2, 0.4, 0.8, 2, 5, 10, 20, 40, 80)
_RPC = ("grpc_type", "grpc_service", "grpc_method")


class Metrics:
    """All series of one server, in a registry of its own. Safe for use from several threads."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)

        # The names and labels of the grpc-prometheus family, which dashboards and alerts know.
        self.rpc_started = Counter("grpc_server_started_total", "RPCs that began.", _RPC, registry=registry)
        self.rpc_handled = Counter(
            "grpc_server_handled_total", "RPCs that ended, by code.", (*_RPC, "grpc_code"), registry=registry
        )
        self.rpc_received = Counter("grpc_server_msg_received_total", "Messages received.", _RPC, registry=registry)
        self.rpc_sent = Counter("grpc_server_msg_sent_total", "Messages sent.", _RPC, registry=registry)
        self.rpc_seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from an RPC's begin to its end.",
            _RPC,
            buckets=SECONDS,
            registry=registry,
        )

        self.batch_size = Histogram(
            "gloss_batch_size",
            "Sequences in a batch.",
            ("model",),
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.batch_tokens = Histogram(
            "gloss_batch_tokens",
            "Tokens in a batch, padding included.",
            ("model",),
            buckets=tuple(2**n for n in range(3, 16)),
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "gloss_batch_seconds", "Time of a batch in the model.", ("model",), buckets=SECONDS, registry=registry
        )
        self.tokens = Counter(
            "gloss_tokens_total",
            "Tokens by kind: prompt, saved (those of them that were known or shared), padding of batches, generated.",
            ("model", "kind"),
            registry=registry,
        )
        self.prefix_lookups = Counter(
            "gloss_prefix_cache_lookups_total",
            "Prompts with a cached prefix (hit) or without (miss).",
            ("model", "outcome"),
            registry=registry,
        )
        self.prefix_tokens = Counter(
            "gloss_prefix_cache_tokens_total",
            "Tokens that were known from prompts before and not computed again.",
            ("model",),
            registry=registry,
        )
        self.prefix_bytes = Gauge(
            "gloss_prefix_cache_bytes", "Memory of cached prefixes.", ("model",), registry=registry
        )
        self.generations = Gauge(
            "gloss_generations", "Texts that grow, and that wait for a place.", ("state",), registry=registry
        )
        self.queue_depth = Gauge("gloss_inference_queue_depth", "Sequences that wait for the model.", registry=registry)
        self.queue_seconds = Histogram(
            "gloss_inference_queue_seconds",
            "Time that a sequence waits for the model.",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.dropped = Counter(
            "gloss_inference_dropped_total",
            "Sequences whose caller left before they ran.",
            ("model",),
            registry=registry,
        )

        self.preempted = Counter(
            "gloss_batches_preempted_total",
            "Batches of callers who are refused that ended early for another caller, and ran again.",
            ("model",),
            registry=registry,
        )

        self._engine = EngineMetrics(registry)

        self.model_load_seconds = Gauge(
            "gloss_model_load_seconds", "Time that loading the model took.", ("model",), registry=registry
        )
        self.model_info = Gauge(
            "gloss_model_info",
            "Always 1; the labels say which models are served.",
            ("model", "digest", "architecture", "device", "dtype"),
            registry=registry,
        )

        self.explanations_created = Counter(
            "gloss_explanations_created_total",
            "CreateExplanation calls that were answered with an explanation.",
            ("method",),
            registry=registry,
        )
        self.explanation_queue_depth = Gauge(
            "gloss_explanation_queue_depth",
            "Explanations that wait for a worker; NaN while Redis is away.",
            ("model",),
            registry=registry,
        )

        self.audit_failures = Counter(
            "gloss_audit_failures_total", "Entries of the audit log that could not be written.", registry=registry
        )

        self._of_model: dict[str, ModelMetrics] = {}

    def register_model(self, info: ModelInfo, load_seconds: float) -> None:
        """Make the series of a model that was loaded in `load_seconds`."""
        self.model_load_seconds.labels(info.name).set(load_seconds)
        self.model_info.labels(info.name, info.digest, info.architecture, info.device, info.dtype).set(1)
        self.of_model(info.name)

    def of_model(self, model: str) -> ModelMetrics:
        """What is counted while a model answers."""
        found = self._of_model.get(model)
        if found is None:
            found = self._of_model[model] = ModelMetrics(self, model)
        return found

    def watch_queue(self, depth: Callable[[], float]) -> None:
        """Read the depth of the inference queue from `depth` whenever the page is read."""
        self.queue_depth.set_function(depth)

    def note_exchange(self, each: Exchange) -> None:
        """Count a request to an external engine."""
        self._engine.note(each.outcome, each.seconds, each.in_flight, each.prompt_tokens, each.cached_tokens)

    def watch_prefixes(self, model: str, runner: Runner) -> None:
        """Read the memory of cached prefixes from `runner` whenever the page is read."""
        self.prefix_bytes.labels(model).set_function(lambda: float(runner.bytes))


class ModelMetrics:
    """The series that a model's every batch adds to. To find one by its labels takes longer than to add to it."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        """Make them."""
        self.batch_size = metrics.batch_size.labels(model)
        self.batch_tokens = metrics.batch_tokens.labels(model)
        self.batch_seconds = metrics.batch_seconds.labels(model)
        self.queue_seconds = metrics.queue_seconds.labels(model)
        self.dropped = metrics.dropped.labels(model)
        self.preempted = metrics.preempted.labels(model)
        self.prompt_tokens = metrics.tokens.labels(model, "prompt")
        self.saved_tokens = metrics.tokens.labels(model, "saved")
        self.padding_tokens = metrics.tokens.labels(model, "padding")
        self.generated_tokens = metrics.tokens.labels(model, "generated")
        self._hits = metrics.prefix_lookups.labels(model, "hit")
        self._misses = metrics.prefix_lookups.labels(model, "miss")
        self._prefix_tokens = metrics.prefix_tokens.labels(model)

    def note_cached(self, cached_tokens: Sequence[int]) -> None:
        """Of each of some prompts, so many first tokens were cached."""
        hits = sum(tokens > 0 for tokens in cached_tokens)
        self._hits.inc(hits)
        self._misses.inc(len(cached_tokens) - hits)
        self._prefix_tokens.inc(sum(cached_tokens))


class MetricsPage:
    """The page, served by a thread of its own."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """Listen on `host`:`port`.

        Raises:
            OSError: the port is taken or the address is not this machine's.
        """
        self._server: WSGIServer
        self._thread: threading.Thread
        self._server, self._thread = prometheus_client.start_http_server(port, host, registry)
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
