"""The asyncio client: the same methods, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import cached_property
from types import TracebackType
from typing import Any, Concatenate, ParamSpec

import grpc

from gloss import citing, v1
from gloss.calls import explanations, inference
from gloss.connection import Connection, as_method, planned
from gloss.errors import GlossError
from gloss.patience import Patience
from gloss.plans import Call, Conversation, Follow, Outcome, Pages, Reply, Step, Stream, Unary, Watch

P = ParamSpec("P")


def _unary(build: Callable[P, Unary[Reply]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[Reply]]:
    @as_method(build)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[Reply]:
        return self._ask(planned(build, *args, **kwargs))

    return method


def _stream(build: Callable[P, Stream[Reply]]) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[Reply]]:
    @as_method(build)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Reply]:
        return self._read(planned(build, *args, **kwargs))

    return method


def _pages(build: Callable[P, Pages]) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[v1.Explanation]]:
    @as_method(build)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[v1.Explanation]:
        return self._follow_pages(planned(build, *args, **kwargs))

    return method


def _watch(build: Callable[P, Watch]) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[v1.Explanation]]:
    @as_method(build)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[v1.Explanation]:
        return self._keep_watching(planned(build, *args, **kwargs))

    return method


def _conversation(
    build: Callable[P, Conversation[Outcome]],
) -> Callable[Concatenate[AsyncClient, P], Awaitable[Outcome]]:
    @as_method(build)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[Outcome]:
        return self._converse(planned(build, *args, **kwargs))

    return method


class AsyncClient(Connection):
    """An asyncio client: `Client`, awaited. It belongs to the event loop of its first call.

    Every method raises `GlossError` when its call fails, and answers the contract's own messages (`gloss.v1`).

        async with gloss.AsyncClient() as client:
            reply = await client.next_token("The capital of France is", top_k=5)
            async for explanation in client.watch(name):
                ...

    The arguments are those of `Connection`.
    """

    next_token = _unary(inference.next_token)
    score = _unary(inference.score)
    score_many = _unary(inference.score_many)
    generate = _stream(inference.generate)
    attention = _unary(inference.attention)
    tokenize = _unary(inference.tokenize)
    models = _unary(inference.models)

    explain = _conversation(explanations.explain)
    study = _conversation(explanations.study)
    cite = _conversation(citing.cite)
    estimate_citations = _conversation(citing.estimate_citations)
    create = _unary(explanations.create)
    estimate = _unary(explanations.estimate)
    get = _unary(explanations.get)
    list = _pages(explanations.list_)
    watch = _watch(explanations.watch)
    cancel = _unary(explanations.cancel)
    delete = _unary(explanations.delete)

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.address, self._options())
        return grpc.aio.secure_channel(self.address, self._credentials, self._options())

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._closed.set()
        await self._channel.close()

    async def _ask(self, call: Call[Reply]) -> Reply:
        with self._failing():
            send = self._channel.unary_unary(call.path, type(call.request).SerializeToString, call.reply.FromString)
            return await send(call.request, **self._call_options(call))

    async def _read(self, call: Call[Reply]) -> AsyncGenerator[Reply, None]:
        with self._failing():
            send = self._channel.unary_stream(call.path, type(call.request).SerializeToString, call.reply.FromString)
            replies = send(call.request, **self._call_options(call))
            try:
                async for reply in replies:
                    yield reply
            finally:
                replies.cancel()  # the caller may have left the loop; after the end it does nothing

    async def _follow_pages(self, pages: Pages) -> AsyncIterator[v1.Explanation]:
        token = ""
        while True:
            reply = await self._ask(pages.page(token))
            for explanation in reply.explanations:
                yield explanation
            token = reply.next_page_token
            if not token:
                return

    async def _keep_watching(self, watch: Watch) -> AsyncIterator[v1.Explanation]:
        patience = Patience(watch)
        while True:
            ended: GlossError | None = None
            try:
                async with aclosing(self._read(watch.connect(patience.connection_seconds()))) as replies:
                    async for reply in replies:
                        last = patience.heard(reply.explanation)
                        yield reply.explanation
                        if last:
                            return
            except GlossError as error:
                ended = error
            await asyncio.sleep(patience.pause(ended))

    async def _converse(self, conversation: Conversation[Outcome]) -> Outcome:
        steps = conversation.steps
        try:
            step = next(steps)
            while True:
                try:
                    found = await self._take(step)
                except GlossError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(found)
        except StopIteration as done:
            outcome: Outcome = done.value
            return outcome

    async def _take(self, step: Step) -> Any:
        match step:
            case Follow():
                async for explanation in self._keep_watching(step.watch):
                    step.report(explanation)
                return explanation
            case Stream():
                return [reply async for reply in self._read(step)]
            case Unary():
                return await self._ask(step)
