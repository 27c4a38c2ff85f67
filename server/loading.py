"""The models of a server, loaded one after the other in a thread of their own."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import TypeVar

from ml.errors import ModelLoadError
from ml.memory import keep_freed_memory
from ml.models.protocol import Closeable, ExplainableModel
from ml.models.requirements import check_torch
from ml.models.served.address import is_served_elsewhere
from ml.models.served.model import open_model
from server.metrics import Metrics
from server.ports import StartError
from server.registry import Registry
from server.settings import Settings

T = TypeVar("T")

_logger = logging.getLogger(__name__)


async def load(settings: Settings, metrics: Metrics, closing: AsyncExitStack) -> Registry:
    """Load the models that the settings name, and open those that are served elsewhere.

    `metrics` learns of each, and `closing` closes those that need it.

    Raises:
        StartError: a model cannot be loaded, or two have one name.
    """

    def load_all() -> Registry:
        keep_freed_memory()
        models = []
        for source in settings.models:
            model = _load_one(source, settings, metrics)
            if isinstance(model, Closeable):
                closing.callback(model.close)
            models.append(model)
        try:
            return Registry(models)
        except ValueError as error:
            raise StartError(f"GLOSS_MODEL: {error}", 2) from None

    return await _apart(load_all)


def _load_one(source: str, settings: Settings, metrics: Metrics) -> ExplainableModel:
    _logger.info("loading model=%s", source)
    began = time.perf_counter()
    try:
        model = open_model(source, settings.engine) if is_served_elsewhere(source) else _loaded(source, settings)
    except ModelLoadError as error:
        raise StartError(f"cannot load model {source!r}: {error}", 1) from error
    seconds = time.perf_counter() - began
    metrics.register_model(model.info, seconds)
    _logger.info(
        "loaded model=%s parameters=%d device=%s dtype=%s seconds=%.2f digest=%.12s",
        model.info.name,
        model.info.parameters,
        model.info.device,
        model.info.dtype,
        seconds,
        model.info.digest,
    )
    return model


def _loaded(source: str, settings: Settings) -> ExplainableModel:
    """A model that this process computes."""
    check_torch()
    import ml.models.loading  # noqa: PLC0415 -- a server of models that are served elsewhere has no torch

    return ml.models.loading.load(
        source,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        max_bytes=settings.max_model_bytes,
        tensor_parallel=settings.tensor_parallel,
    )


async def _apart(work: Callable[[], T]) -> T:
    """The result of `work`, done in a thread that ends with it.

    Each thread that multiplies matrices gets helpers of OpenMP's, for as long as it lives. Where there are more of them
    than cores, OpenMP lets all of them sleep between two operations, and the model's own thread would take twice as
    long for each batch.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def deliver(result: Callable[[], None]) -> None:
        if not done.done():
            result()

    def run() -> None:
        try:
            found = work()
        except BaseException as error:  # noqa: BLE001 -- it is raised where the result is awaited
            finish = functools.partial(done.set_exception, error)
        else:
            finish = functools.partial(done.set_result, found)
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, finish)

    # A daemon: a signal that ends the process while a model is loading need not wait for it.
    thread = threading.Thread(target=run, name="loading", daemon=True)
    thread.start()
    result = await done
    thread.join()
    return result
