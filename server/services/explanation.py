"""ExplanationService: checks what is asked, hands it to the store, and follows it there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from gloss import v1 as pb
from gloss.v1.explanation_service_pb2_grpc import ExplanationServiceServicer
from jobs import question
from jobs.record import Question
from ml.errors import InputError
from schema.convert import from_progress
from server.callers import caller, queued_as
from server.drain import Drain
from server.errors import DrainingError, NoWorkerError, StreamAgeError
from server.helpers import Helpers, Where
from server.interceptors import Context
from server.metrics import Metrics
from server.registry import Registry
from server.services import conversions, sizes
from server.services.fields import blamed_at, check_request_id, explanation_id
from server.services.wire import version
from server.store import Store

_DEFAULT_PAGE, _LARGEST_PAGE = 50, 1000
_CANCEL_SECONDS = 0.05


class ExplanationService(ExplanationServiceServicer):
    """The methods of the contract, which documents them."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        helpers: Helpers,
        *,
        metrics: Metrics,
        drain: Drain,
        watch_seconds: float,
        max_message_bytes: int,
    ) -> None:
        """Serve explanations of the models of `registry`; `helpers` check what is asked.

        No result may be larger than `max_message_bytes`.
        """
        self._registry = registry
        self._store = store
        self._helpers = helpers
        self._metrics = metrics
        self._drain = drain
        self._watch_seconds = watch_seconds
        self._max_bytes = max_message_bytes

    async def CreateExplanation(self, request: pb.CreateExplanationRequest, context: Context) -> pb.Explanation:  # noqa: N802
        """Queue an explanation whose input has been checked in full, so that no bad input ever waits for a worker."""
        check_request_id(request.request_id)
        kind, asked = _asked(request)
        model = self._registry.resolve(asked.model)
        planned = await self._helpers.run(
            sizes.texts_of(asked),
            conversions.forecast,
            model,
            kind,
            asked,
            caller=queued_as(context),
            at_least=Where.THREAD,
        )
        with blamed_at(kind):
            sizes.check_rows(planned, self._max_bytes)
        if not request.validate_only and not await self._store.worker_alive(model.info.name, model.info.digest):
            raise NoWorkerError(model.info.name)
        method = question.method(asked)
        cost = from_progress(planned.progress(await self._store.throughput(model.info.digest, method)))
        if request.validate_only:
            checked = pb.Explanation(
                model=version(model.info), method=method, prompt_preview=question.preview(asked), progress=cost
            )
            getattr(checked, kind).CopyFrom(question.named(asked, model.info.name))
            return checked
        explanation = await self._store.create(
            caller().access, asked, version(model.info), cost=cost, request_id=request.request_id, fresh=request.fresh
        )
        self._metrics.explanations_created.labels(method).inc()
        return explanation

    async def GetExplanation(self, request: pb.GetExplanationRequest, context: Context) -> pb.Explanation:  # noqa: N802
        """Read one."""
        explanation_id(request.name)
        return await self._store.get(caller().access, request.name, _view(request, pb.EXPLANATION_VIEW_FULL))

    async def ListExplanations(  # noqa: N802
        self, request: pb.ListExplanationsRequest, context: Context
    ) -> pb.ListExplanationsResponse:
        """Read a page."""
        if not 0 <= request.page_size <= _LARGEST_PAGE:
            raise InputError("page_size", f"must be between 1 and {_LARGEST_PAGE}, or 0 for {_DEFAULT_PAGE}")
        if request.state not in pb.ExplanationState.values():
            raise InputError("state", f"{request.state} is not a state of explanations")
        view = _view(request, pb.EXPLANATION_VIEW_BASIC)
        size = request.page_size or _DEFAULT_PAGE
        page, following = await self._store.list(caller().access, size, request.page_token, request.state, view)
        return pb.ListExplanationsResponse(explanations=page, next_page_token=following)

    async def WatchExplanation(  # noqa: N802
        self, request: pb.WatchExplanationRequest, context: Context
    ) -> AsyncIterator[pb.WatchExplanationResponse]:
        """Send the explanation now and whenever it changes, until it ends or the stream is too old."""
        view = _view(request, pb.EXPLANATION_VIEW_BASIC)
        explanation_id(request.name)
        access = caller().access
        changes = self._store.changes(access, request.name)
        draining = asyncio.ensure_future(self._drain.wait_begun())
        oldest = asyncio.get_running_loop().time() + self._watch_seconds
        try:
            while await self._changed(changes, draining, oldest):
                yield pb.WatchExplanationResponse(explanation=await self._store.get(access, request.name, view))
        finally:
            draining.cancel()

    async def CancelExplanation(self, request: pb.CancelExplanationRequest, context: Context) -> pb.Explanation:  # noqa: N802
        """Ask for a stop."""
        explanation_id(request.name)
        return await self._store.cancel(caller().access, request.name)

    async def DeleteExplanation(  # noqa: N802
        self, request: pb.DeleteExplanationRequest, context: Context
    ) -> pb.DeleteExplanationResponse:
        """Forget one."""
        explanation_id(request.name)
        await self._store.delete(caller().access, request.name)
        return pb.DeleteExplanationResponse()

    async def _changed(self, changes: AsyncIterator[object], draining: asyncio.Future[Any], oldest: float) -> bool:
        """Wait for the next change; false when there will be none.

        Raises:
            DrainingError: the server is stopping.
            StreamAgeError: the stream has lived long enough.
        """
        change: asyncio.Future[Any] = asyncio.ensure_future(anext(changes, _END))
        try:
            left = oldest - asyncio.get_running_loop().time()
            await asyncio.wait({change, draining}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if change.done():
                return change.result() is not _END
            if draining.done():
                raise DrainingError
            raise StreamAgeError(self._watch_seconds)
        finally:
            # Not once but until it is true: redis-py swallows a cancellation that comes while it connects.
            while not change.done():
                change.cancel()
                await asyncio.wait({change}, timeout=_CANCEL_SECONDS)
            if not change.cancelled():
                change.exception()  # Nobody waits for it any more.


_END = object()


def _asked(request: pb.CreateExplanationRequest) -> tuple[str, Question]:
    """What is asked, and the field that holds it."""
    kind = request.WhichOneof("question")
    if kind is None:
        raise InputError("question", "set exactly one of spec and study")
    return kind, request.spec if kind == "spec" else request.study


def _view(
    request: pb.GetExplanationRequest | pb.ListExplanationsRequest | pb.WatchExplanationRequest,
    default: pb.ExplanationView,
) -> pb.ExplanationView:
    """The view that a request asks for, or its method's `default`."""
    if request.view not in pb.ExplanationView.values():
        raise InputError("view", f"{request.view} is not a view of explanations")
    return request.view or default
