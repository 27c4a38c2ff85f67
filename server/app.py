"""The server put together: listen, load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection

from gloss.v1 import explanation_service_pb2_grpc, inference_service_pb2_grpc
from jobs.ending import end_within
from ml.memory import collect_seldom, expect_to_stay
from ml.models.served.model import ServedModel
from server.batching import Limits
from server.chain import chain
from server.drain import Drain
from server.engines import Engines
from server.health import EXPLANATION, INFERENCE, Health, watch_explanations
from server.heap import keep_little
from server.helpers import Helpers
from server.listener import Listener
from server.loading import load
from server.metrics import Metrics, MetricsPage
from server.ports import address, take
from server.registry import Registry
from server.served import ServedEngine
from server.services.explanation import ExplanationService
from server.services.inference import InferenceService
from server.settings import Settings
from server.store import Store
from server.tls import credentials
from server.unregistered import unregistered

if TYPE_CHECKING:
    from server.engine import Engine

_logger = logging.getLogger(__name__)

_CANCEL_SECONDS = 0.05
_FLUSH_SECONDS = 0.5
"""Time for gRPC to send the last replies once every call is answered, and for callers to stop calling."""
_NOTICE_SECONDS = 0.05
"""Time for clients to hear that gRPC stops."""
_END_SECONDS = 8.0
"""Time between the end of the grace and that of the process, whatever blocks."""
_EXIT_SECONDS = 2.0
"""Time between the end of the server and that of the process."""


class Server:
    """One running server: `start`, then `serve_until_signalled` or whatever a test does, then `stop`."""

    def __init__(self, settings: Settings) -> None:
        """Put together, on the running event loop, what needs no model.

        Raises:
            StartError: the files of certificates or keys cannot be used.
        """
        self.settings = settings
        self.metrics = Metrics()
        self.drain = Drain()
        self.health = Health()
        self.port = 0
        """The gRPC port, once started."""
        self.metrics_port = 0
        """The metrics page's port, once started."""
        self.engine: Engine | None = None
        """What computes the models that are loaded here, once started and if there are any."""
        interceptors = [chain(settings, self.metrics, self.drain, enter=self._enter, refused=self._refused)]

        def make() -> grpc.aio.Server:
            options, limit = _options(settings), settings.max_calls
            return grpc.aio.server(interceptors=interceptors, options=options, maximum_concurrent_rpcs=limit)

        self._grpc = Listener(make, credentials(settings))
        self._closing = AsyncExitStack()  # What to undo once no call is left, the last made first.

    async def start(self) -> None:
        """Take the ports, load the models, warm them up and begin to serve.

        Raises:
            StartError: a port is taken or a model cannot be loaded.
        """
        try:
            # The ports come first: a taken one is reported before minutes of loading.
            self._listen()
            registry = await load(self.settings, self.metrics, self._closing)
            engines = Engines()
            self._connect_engines(registry, engines)
            await self._start_engine(registry, engines)
            collect_seldom()
            await self._serve(registry, engines)
        except BaseException:
            await self._closing.aclose()
            raise

    async def serve_until_signalled(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            RuntimeError: the model's thread died, or gRPC ended by itself and cannot listen again.
        """
        signalled = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, signalled.set)
        stop: asyncio.Future[Any] = asyncio.ensure_future(signalled.wait())
        ended: asyncio.Future[Any] = asyncio.ensure_future(self._grpc.keep())
        crashed = asyncio.get_running_loop().create_future() if self.engine is None else self.engine.crashed
        await asyncio.wait({stop, crashed, ended}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if ended.done():
            await ended
        await _cancel(ended)
        if crashed.done():
            await crashed

    async def stop(self) -> None:
        """Refuse new calls, let the accepted ones finish within the grace, and end."""
        _logger.info("stopping grace_seconds=%g", self.settings.grace_seconds)
        await self.health.end()
        self.drain.begin()
        try:
            await asyncio.wait_for(self.drain.wait_idle(), self.settings.grace_seconds)
        except TimeoutError:
            _logger.warning("the grace is over, unfinished calls end with UNAVAILABLE")
            self.drain.cut()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.drain.wait_idle(), _FLUSH_SECONDS)
        # Callers who try again at once would be cut off by gRPC's end: they are held until gRPC has notified them.
        self.drain.hold()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.drain.wait_quiet(), _FLUSH_SECONDS)
        stopping = asyncio.create_task(self._grpc.stop(_FLUSH_SECONDS))
        await asyncio.sleep(_NOTICE_SECONDS)
        self.drain.release()
        await stopping
        await self._closing.aclose()
        _logger.info("stopped")

    async def _enter(self) -> None:
        """Let a call in, of whatever method."""
        if self.engine is not None:
            self.engine.note_arrival()
        await self.drain.enter()

    def _refused(self, caller: str) -> None:
        """Take note of a refused call."""
        if self.engine is not None:
            self.engine.note_refusal(caller)

    def _listen(self) -> None:
        settings = self.settings
        host, port = settings.host, settings.port
        self.port = take("gRPC", "GLOSS_", host, port, lambda: self._grpc.listen(host, port, address))
        page_host, page_port = settings.metrics_host, settings.metrics_port
        page = take(
            "metrics",
            "GLOSS_METRICS_",
            page_host,
            page_port,
            lambda: MetricsPage(self.metrics.registry, page_host, page_port),
        )
        self._closing.callback(page.close)
        self.metrics_port = page.port

    def _connect_engines(self, registry: Registry, engines: Engines) -> None:
        """Connect to the external engines of models that are not loaded here."""
        found = {name: model.found for name, model in registry.items() if isinstance(model, ServedModel)}
        if found:
            served = ServedEngine(found, self.metrics.note_exchange, max_waiting=self.settings.max_waiting_prompts)
            self._closing.push_async_callback(served.stop)
            engines.add(list(found), served)

    async def _start_engine(self, registry: Registry, engines: Engines) -> None:
        """Start the engine of the models that are loaded here, and warm them up."""
        loaded: dict[str, Any] = {name: model for name, model in registry.items() if not model.info.engine}
        if not loaded:
            return
        # A server whose models are all computed by external engines has no torch.
        from server.engine import Engine  # noqa: PLC0415
        from server.generation import GenerationLimits  # noqa: PLC0415

        settings = self.settings
        limits = Limits(
            batch_tokens=settings.max_batch_tokens,
            batch_items=settings.max_batch_prompts,
            waiting_items=settings.max_waiting_prompts,
            waiting_tokens=settings.max_waiting_tokens,
        )
        self.engine = engine = Engine(
            loaded,
            limits,
            self.metrics,
            GenerationLimits(sequences=settings.max_generations, bytes=settings.max_generation_bytes),
            prefix_bytes=settings.prefix_cache_bytes,
            waiting_seconds=settings.max_waiting_seconds,
        )
        engine.start()
        self._closing.push_async_callback(engine.stop, 1.0)
        engines.add(list(loaded), engine)
        await engine.warm_up()
        expect_to_stay()

    async def _serve(self, registry: Registry, engines: Engines) -> None:
        settings = self.settings
        store = Store(
            settings.redis_url,
            seconds=settings.store_seconds,
            retention_seconds=settings.retention_seconds,
            max_queued=settings.max_queued,
            max_reply_bytes=settings.max_message_bytes,
        )
        self._closing.push_async_callback(store.close)
        helpers = Helpers(registry.values())
        self._closing.push_async_callback(helpers.close)

        inference = InferenceService(registry, engines, helpers, settings)
        explanation = ExplanationService(
            registry,
            store,
            helpers,
            metrics=self.metrics,
            drain=self.drain,
            watch_seconds=settings.watch_seconds,
            max_message_bytes=settings.max_message_bytes,
        )

        def register(server: grpc.aio.Server) -> None:
            services = unregistered(server)
            inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(inference, services)
            explanation_service_pb2_grpc.add_ExplanationServiceServicer_to_server(explanation, services)
            health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, services)
            reflection.enable_server_reflection((INFERENCE, EXPLANATION, HEALTH, reflection.SERVICE_NAME), server)

        await self.health.begin()
        await self._grpc.start(register)
        await self.health.inference_ready()

        watch = asyncio.create_task(
            watch_explanations(self.health, store, registry, self.metrics, settings.health_seconds)
        )
        self._closing.push_async_callback(_cancel, watch)
        self._closing.push_async_callback(_cancel, asyncio.create_task(keep_little()))


async def run(settings: Settings) -> None:
    """Run a server until it is signalled to stop. Print a ready line to stdout, for the process that started it.

    The process ends soon after it, even if a thread still looks up the name of Redis or of an engine, for which
    Python's exit would wait.
    """
    server = Server(settings)
    await server.start()
    exit_code = 1
    try:
        grpc_address = address(settings.host, server.port)
        metrics_address = address(settings.metrics_host, server.metrics_port)
        print(f"ready grpc={grpc_address} metrics={metrics_address}", flush=True)
        await server.serve_until_signalled()
        exit_code = 0
    finally:
        end_within(settings.grace_seconds + _END_SECONDS, exit_code)
        await server.stop()
        end_within(_EXIT_SECONDS, exit_code)


async def _cancel(task: asyncio.Future[Any]) -> None:
    # Not once but until it is true: Python 3.11's wait_for swallows a cancellation that comes as its work ends.
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_SECONDS)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.so_reuseport", 0),  # Two servers on one port would share its calls in silence.
        ("grpc.max_concurrent_streams", 1000),
        # A peer that vanished without a word is noticed within 40 s, and its calls are cancelled.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Clients may do the same, also between calls.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]
