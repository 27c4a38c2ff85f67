"""A server inside the test's process: real gRPC on a free port, real models, an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

import ml.models.loading
from gloss import v1 as pb
from gloss.v1.explanation_service_pb2_grpc import ExplanationServiceStub
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub
from ml.models.base import AttentionSink, LanguageModel
from server.app import Server
from server.settings import Settings
from tests.fixtures.runners import PromptRunner

T = TypeVar("T")

NO_REDIS = "unix:///nowhere/redis.sock"
Code = grpc.StatusCode


class Served:
    """A running server and a client's stubs of it. Calls have 20 seconds unless a test says otherwise."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, channel: grpc.Channel) -> None:
        self.server = server
        self.channel = channel
        self.inference = InferenceServiceStub(channel)
        self.explanations = ExplanationServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)
        self._loop = loop

    def on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def health(self, service: str) -> str:
        """A service's status by name."""
        reply = self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    def page(self) -> str:
        """The metrics page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.metrics_port}/metrics", timeout=5) as page:
            text: str = page.read().decode()
            return text

    def metric(self, name: str, **labels: str) -> float:
        """A series' value, 0 where it does not exist yet."""
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0

    def next_token(self, *texts: str, timeout: float = 20, **fields: Any) -> pb.NextTokenResponse:
        """NextToken of texts."""
        prompts = [pb.Prompt(text=text) for text in texts]
        return self.inference.NextToken(pb.NextTokenRequest(prompts=prompts, **fields), timeout=timeout)


@contextmanager
def serve(folders: Sequence[Path], **settings: Any) -> Iterator[Served]:
    """Serve the models of `folders`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="event loop")
    thread.start()

    async def start() -> Server:
        server = Server(
            Settings(
                **{
                    "port": 0,
                    "metrics_port": 0,
                    "model": ",".join(map(str, folders)),
                    "device": "cpu",
                    "redis_url": NO_REDIS,
                    "health_seconds": 0.05,
                    "grace_seconds": 5,
                    **settings,
                }
            )
        )
        await server.start()
        return server

    try:
        server = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
        try:
            with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                yield Served(server, loop, channel)
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class Gate:
    """Holds up every model that is loaded through it, so that a test decides when a batch ends."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[int] = []
        self.models: list[str] = []
        """Of each batch."""

    def load(self, source: str, **options: Any) -> LanguageModel:
        """In place of `ml.models.loading.load`."""
        return _Gated(_load(source, **options), self)


_load = ml.models.loading.load


class _Gated:
    def __init__(self, model: LanguageModel, gate: Gate) -> None:
        self.info = model.info
        self.tokenizer = model.tokenizer
        self._model = model
        self._gate = gate

    def logits(self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int] | None = None) -> list[Any]:
        self._gate.batches.append(len(sequences))
        self._gate.models.append(self.info.name)
        self._gate.entered.release()
        assert self._gate.open.wait(20)
        return self._model.logits(sequences, logit_counts)

    def runner(self, max_bytes: int = 0) -> PromptRunner:
        return PromptRunner(self.logits)

    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        self._model.attention(ids, layers, queries, sink)


class Refusal:
    """A failed call, decoded."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details()
        status = rpc_status.from_call(error)
        assert status is not None, f"no google.rpc.Status beside {self.code}: {self.message}"
        self.field = ""
        self.retry_seconds: float | None = None
        for part in status.details:
            if part.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(part.value)
                assert info.domain == "gloss.v1"
                self.reason = info.reason
                self.metadata = dict(info.metadata)
            if part.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                [violation] = error_details_pb2.BadRequest.FromString(part.value).field_violations
                self.field = violation.field
                assert violation.description
            if part.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                delay = error_details_pb2.RetryInfo.FromString(part.value).retry_delay
                self.retry_seconds = delay.ToTimedelta().total_seconds()


def refused(method: Any, request: Any, timeout: float = 20) -> Refusal:
    """How a call fails; a failed test where it does not."""

    def call() -> None:
        reply = method(request, timeout=timeout)
        if not hasattr(reply, "DESCRIPTOR"):
            list(reply)  # A stream fails when it is read.

    with pytest.raises(grpc.RpcError) as caught:
        call()
    return Refusal(caught.value)
