"""Plans for the clients: one call (`Unary`, `Stream`), or several (`Pages`, `Watch`, `Follow`, `Conversation`)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from gloss import v1
from gloss.errors import ExplanationFailedError

Reply = TypeVar("Reply", bound=Message)
Outcome = TypeVar("Outcome")

INFERENCE = "gloss.v1.InferenceService"
EXPLANATIONS = "gloss.v1.ExplanationService"
FINAL_STATES = (v1.EXPLANATION_STATE_SUCCEEDED, v1.EXPLANATION_STATE_FAILED, v1.EXPLANATION_STATE_CANCELLED)

IDEMPOTENT = {
    INFERENCE: ("NextToken", "Score", "Attention", "Tokenize", "ListModels"),
    # CreateExplanation is safe to repeat because every request below carries a request_id.
    EXPLANATIONS: ("CreateExplanation", "GetExplanation", "ListExplanations", "CancelExplanation"),
}
"""Unary methods, by service, that may be retried if the server is unavailable."""


@dataclass(frozen=True)
class Call(Generic[Reply]):
    """One RPC. `timeout` None is the client's own."""

    service: str
    method: str
    request: Message
    reply: type[Reply]
    timeout: float | None = None

    @property
    def path(self) -> str:
        """The method's path in HTTP/2."""
        return f"/{self.service}/{self.method}"


class Unary(Call[Reply]):
    """One request, one reply."""


class Stream(Call[Reply]):
    """One request, many replies."""


@dataclass(frozen=True)
class Pages:
    """All explanations of a list, page after page."""

    request: v1.ListExplanationsRequest
    timeout: float | None = None

    def page(self, token: str) -> Unary[v1.ListExplanationsResponse]:
        """The page that `token` asks for."""
        request = v1.ListExplanationsRequest()
        request.CopyFrom(self.request)
        request.page_token = token
        return Unary(EXPLANATIONS, "ListExplanations", request, v1.ListExplanationsResponse, self.timeout)


@dataclass(frozen=True)
class Watch:
    """An explanation until it ends; `timeout` bounds the whole wait."""

    request: v1.WatchExplanationRequest
    timeout: float | None = None
    known_to_exist: bool = False

    def connect(self, timeout: float) -> Stream[v1.WatchExplanationResponse]:
        """One connection of at most `timeout` seconds."""
        return Stream(EXPLANATIONS, "WatchExplanation", self.request, v1.WatchExplanationResponse, timeout)


@dataclass(frozen=True)
class Follow:
    """A watch to its end, with a report of each explanation. Its result is the last one."""

    watch: Watch
    report: Callable[[v1.Explanation], None]


Step = Unary[Any] | Stream[Any] | Follow
Steps = Generator[Step, Any, Outcome]
"""Yields plans one by one, and is sent the result of each: a reply, a list of replies, or an explanation."""


@dataclass(frozen=True)
class Conversation(Generic[Outcome]):
    """Several calls, each of which may depend on the results before; a failed one is thrown into `steps`."""

    steps: Steps[Outcome]


def explain_steps(
    create: Unary[v1.Explanation],
    *,
    wait: bool,
    on_progress: Callable[[v1.Explanation], None] | None,
    timeout: float | None,
) -> Steps[v1.Explanation]:
    """Create an explanation and, with `wait`, wait for its end; `timeout` bounds the wait.

    Returns:
        The explanation, in view FULL.

    Raises:
        ExplanationFailedError: it was waited for, and failed or was cancelled.
    """
    report = on_progress or (lambda _: None)
    created: v1.Explanation = yield create
    explanation = created
    report(explanation)
    if wait and not is_final(explanation.state):
        watch = Watch(v1.WatchExplanationRequest(name=explanation.name), timeout, known_to_exist=True)
        explanation = yield Follow(watch, report)
    explanation = complete(explanation, created)
    if wait and explanation.state != v1.EXPLANATION_STATE_SUCCEEDED:
        raise ExplanationFailedError(explanation)
    return explanation


def is_final(state: v1.ExplanationState) -> bool:
    """Whether an explanation in this state never changes again."""
    return state in FINAL_STATES


def complete(basic: v1.Explanation, full: v1.Explanation) -> v1.Explanation:
    """The newer explanation, in view BASIC, with the spec or study of the older one, in view FULL."""
    completed = v1.Explanation()
    completed.CopyFrom(basic)
    for question in ("spec", "study"):
        if full.HasField(question):
            getattr(completed, question).CopyFrom(getattr(full, question))
    return completed
