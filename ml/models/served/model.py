"""A model that is served elsewhere, as explainers see one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from ml.models.protocol import LogProbabilities, Prefix, RoundedModel
from ml.models.served import checkpoints, texts
from ml.models.served.address import parse
from ml.models.served.client import EngineClient
from ml.models.served.completions import PATH
from ml.models.served.exchange import Exchange
from ml.models.served.opening import Found, look
from ml.models.served.options import EngineOptions
from ml.models.served.reading import Part, parts, ways
from ml.models.served.salts import Salts
from ml.models.served.stream import Answered, Engine

T = TypeVar("T")

_END = object()


def open_model(
    source: str, options: EngineOptions, observe: Callable[[Exchange], None] = lambda exchange: None
) -> ServedModel:
    """Open the served model that `source` names, and find out what its engine can.

    Args:
        observe: is called with every request that has ended, in another thread.

    Raises:
        ModelLoadError: it cannot be used; the message says why.
    """
    return ServedModel(asyncio.run(look(parse(source), options)), observe)


class ServedModel:
    """An `ml.models.protocol.ExplainableModel` whose engine is asked over HTTP, in a thread with an event loop."""

    def __init__(self, found: Found, observe: Callable[[Exchange], None] = lambda exchange: None) -> None:
        """Ask what was `found`. The first question starts the thread."""
        self.found = found
        self.info = found.info
        self.tokenizer = found.tokenizer
        self._salts = Salts()
        self._salt = ""
        self._loop = _Loop(found, observe)

    def for_namespace(self, namespace: str) -> ServedModel:
        """See `ml.models.protocol.Namespaced`. The connections are shared."""
        model = object.__new__(type(self))
        model.__dict__.update(self.__dict__)
        model._salt = self._salts.of(namespace)
        return model

    def marked(self, checkpoint: bytes) -> bytes:
        """See `ml.models.protocol.Marking`."""
        return checkpoints.marked(checkpoint, self.found.fingerprint)

    def unmarked(self, data: bytes) -> bytes | None:
        """See `ml.models.protocol.Marking`."""
        return checkpoints.unmarked(data, self.found.fingerprint)

    def close(self) -> None:
        """End the thread and its connections."""
        self._loop.close()

    def stream_log_probabilities(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        prefix: Prefix | None = None,
    ) -> Iterator[LogProbabilities]:
        """See `ExplainableModel.stream_log_probabilities`.

        Prompts come in the order in which their answers do. Equal calls give equal numbers but for the engine's noise.

        Raises:
            EngineModelChangedError: the engine computes another model than at the start.
            EngineError: it gives no answer that could be used.
        """
        chosen = ways(continuations, self.found.abilities.given_ids)
        found = np.full((len(prompts), sum(map(len, continuations))), np.nan)
        unread = [len(chosen)] * len(prompts)

        async def asked(engine: Engine) -> AsyncIterator[list[Answered]]:
            requests = parts(prompts, chosen, engine.request, salt=self._salt, stands_back=True)
            async for answered in engine.stream(requests):
                yield answered

        for some in self._loop.iterate(asked):
            complete: list[int] = []
            for each in some:
                each.part.write(each.answers, found)
                for prompt in (row for rows in each.part.rows for row in rows):
                    unread[prompt] -= 1
                    if not unread[prompt]:
                        complete.append(prompt)
            yield LogProbabilities(complete, found[complete], sum(_tokens(each.part) for each in some), 0)

    def read_prefix(self, ids: Sequence[int]) -> None:
        """None: an engine keeps prefixes by itself, and finds them again."""

    def generate_greedily(self, ids: Sequence[int], max_tokens: int, *, banned: Collection[int] = ()) -> Iterator[int]:
        """See `ExplainableModel.generate_greedily`.

        Raises:
            EngineError: it gives no answer that could be used.
        """
        name, abilities = self.found.address.model, self.found.abilities
        asked = texts.greedy_body(name, ids, abilities, max_tokens=max_tokens, banned=banned, salt=self._salt)

        async def generated(engine: Engine) -> list[int]:
            reply = await engine.client.post(PATH, asked, lambda data: texts.greedy_ids(data, abilities), prompts=1)
            return reply.value

        for token in self._loop.run(generated):
            yield token
            if token in self.tokenizer.special.ends:
                return

    def in_bfloat16(self) -> tuple[RoundedModel, ...]:
        """None: the precision is not ours to choose."""
        return ()


class _Loop:
    """An event loop in a thread, with an engine's connections; started by the first question, safe from any thread."""

    def __init__(self, found: Found, observe: Callable[[Exchange], None]) -> None:
        self._found = found
        self._observe = observe
        self._lock = threading.Lock()
        self._running: tuple[asyncio.AbstractEventLoop, threading.Thread, Engine] | None = None

    def run(self, work: Callable[[Engine], Coroutine[Any, Any, T]]) -> T:
        """The result of `work`, for which the calling thread waits. An exception that reaches it meanwhile ends it."""
        loop, engine = self._started()
        future = asyncio.run_coroutine_threadsafe(work(engine), loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def iterate(self, work: Callable[[Engine], AsyncIterator[T]]) -> Iterator[T]:
        """What `work` yields. Closing the iterator, or an exception that reaches the calling thread, ends it."""
        loop, engine = self._started()
        arrived: SimpleQueue[Any] = SimpleQueue()

        async def run() -> None:
            try:
                async for item in work(engine):
                    arrived.put(item)
            except BaseException as error:
                arrived.put(error)
                raise
            arrived.put(_END)

        future = asyncio.run_coroutine_threadsafe(run(), loop)
        try:
            while (item := arrived.get()) is not _END:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            future.cancel()

    def close(self) -> None:
        """End the thread, if it was started."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            loop, thread, engine = running
            asyncio.run_coroutine_threadsafe(engine.client.aclose(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _started(self) -> tuple[asyncio.AbstractEventLoop, Engine]:
        with self._lock:
            if self._running is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=loop.run_forever, name="engine", daemon=True)
                thread.start()
                engine = asyncio.run_coroutine_threadsafe(self._connected(), loop).result()
                self._running = loop, thread, engine
            loop, _, engine = self._running
        return loop, engine

    async def _connected(self) -> Engine:
        found = self._found
        client = EngineClient(found.address, found.options, self._observe)
        return Engine(client, found.abilities, found.fingerprint)


def _tokens(part: Part) -> int:
    return sum(map(len, part.query.sequences))
