"""The blocking client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
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

_CLOSING_SECONDS = 2.0
"""A connection that is not closed by then is left behind."""


def _unary(build: Callable[P, Unary[Reply]]) -> Callable[Concatenate[Client, P], Reply]:
    @as_method(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Reply:
        return self._ask(planned(build, *args, **kwargs))

    return method


def _stream(build: Callable[P, Stream[Reply]]) -> Callable[Concatenate[Client, P], Iterator[Reply]]:
    @as_method(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Reply]:
        return self._read(planned(build, *args, **kwargs))

    return method


def _pages(build: Callable[P, Pages]) -> Callable[Concatenate[Client, P], Iterator[v1.Explanation]]:
    @as_method(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[v1.Explanation]:
        return self._follow_pages(planned(build, *args, **kwargs))

    return method


def _watch(build: Callable[P, Watch]) -> Callable[Concatenate[Client, P], Iterator[v1.Explanation]]:
    @as_method(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[v1.Explanation]:
        return self._keep_watching(planned(build, *args, **kwargs))

    return method


def _conversation(build: Callable[P, Conversation[Outcome]]) -> Callable[Concatenate[Client, P], Outcome]:
    @as_method(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Outcome:
        return self._converse(planned(build, *args, **kwargs))

    return method


class Client(Connection):
    """A blocking client. Safe to share between threads; not across a fork.

    Every method raises `GlossError` when its call fails, and answers the contract's own messages (`gloss.v1`).

        with gloss.Client() as client:
            reply = client.next_token("The capital of France is", top_k=5)
            why = client.explain("The capital of France is", "lime", target=" Paris")

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
    def _channel(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self.address, self._options())
        return grpc.secure_channel(self.address, self._credentials, self._options())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._closed.set()
        # A call that Ctrl-C struck while it was being sent may leave gRPC waiting for its end for ever.
        closing = threading.Thread(target=self._channel.close, daemon=True)
        closing.start()
        closing.join(_CLOSING_SECONDS)

    def _ask(self, call: Call[Reply]) -> Reply:
        with self._failing():
            send = self._channel.unary_unary(call.path, type(call.request).SerializeToString, call.reply.FromString)
            return send(call.request, **self._call_options(call))

    def _read(self, call: Call[Reply]) -> Iterator[Reply]:
        with self._failing():
            send = self._channel.unary_stream(call.path, type(call.request).SerializeToString, call.reply.FromString)
            replies = send(call.request, **self._call_options(call))
            try:
                yield from replies
            finally:
                replies.cancel()  # the caller may have left the loop; after the end it does nothing

    def _follow_pages(self, pages: Pages) -> Iterator[v1.Explanation]:
        token = ""
        while True:
            reply = self._ask(pages.page(token))
            yield from reply.explanations
            token = reply.next_page_token
            if not token:
                return

    def _keep_watching(self, watch: Watch) -> Iterator[v1.Explanation]:
        patience = Patience(watch)
        while True:
            ended: GlossError | None = None
            try:
                for reply in self._read(watch.connect(patience.connection_seconds())):
                    last = patience.heard(reply.explanation)
                    yield reply.explanation
                    if last:
                        return
            except GlossError as error:
                ended = error
            time.sleep(patience.pause(ended))

    def _converse(self, conversation: Conversation[Outcome]) -> Outcome:
        steps = conversation.steps
        try:
            step = next(steps)
            while True:
                try:
                    found = self._take(step)
                except GlossError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(found)
        except StopIteration as done:
            outcome: Outcome = done.value
            return outcome

    def _take(self, step: Step) -> Any:
        match step:
            case Follow():
                for explanation in self._keep_watching(step.watch):
                    step.report(explanation)
                return explanation
            case Stream():
                return [*self._read(step)]
            case Unary():
                return self._ask(step)
