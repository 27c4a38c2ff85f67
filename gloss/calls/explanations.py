"""The methods that ask why: they queue explanations and studies, follow them, and end them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, cast

from gloss import build, v1
from gloss.build import (
    ContinuationLike,
    FeaturesLike,
    MethodLike,
    PrecisionName,
    PromptLike,
    RemovalName,
    RowsLike,
    ScaleName,
    StudyLike,
    TargetLike,
)
from gloss.durations import DurationLike
from gloss.plans import EXPLANATIONS, Conversation, Pages, Unary, Watch, explain_steps
from gloss.values import enum_value, fill

StateName = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ViewName = Literal["basic", "full"]
"""Without what was asked, which may be long, or with it."""


def create(
    question: PromptLike | v1.ExplanationSpec | v1.StudySpec,
    method: MethodLike | None = None,
    *,
    fresh: bool = False,
    request_id: str | None = None,
    timeout: float | None = None,
    **asked: Any,
) -> Unary[v1.Explanation]:
    """Queues an explanation and answers at once.

    Args:
        question: a prompt: text, token ids or chat messages; or a whole spec of an explanation or a study, which says
            everything.
        method: name of a method, or its message. Default: occlusion.
        fresh: compute everything again, even if the same spec was explained before.
        request_id: makes the call safe to repeat. Default: a random one, so that a lost reply can be asked for again.
        timeout: seconds. Default: the client's.
        asked: target, features, removal and so on, as `explain` takes them.
    """
    if not isinstance(question, v1.ExplanationSpec | v1.StudySpec):
        explaining = explain(question, method or "occlusion", fresh=fresh, request_id=request_id, **asked)
        creating = cast("Unary[v1.Explanation]", next(explaining.steps))  # its first step
        return replace(creating, timeout=timeout)
    if said := [*([] if method is None else ["method"]), *asked]:
        raise ValueError(f"a spec is complete: leave out {' and '.join(said)}")
    request = v1.CreateExplanationRequest(request_id=request_id or uuid.uuid4().hex, fresh=fresh)
    if isinstance(question, v1.StudySpec):
        request.study.CopyFrom(question)
    else:
        request.spec.CopyFrom(question)
    return Unary(EXPLANATIONS, "CreateExplanation", request, v1.Explanation, timeout)


def estimate(
    question: PromptLike | v1.ExplanationSpec | v1.StudySpec,
    method: MethodLike | None = None,
    *,
    timeout: float | None = None,
    **asked: Any,
) -> Unary[v1.Explanation]:
    """Checks a request for an explanation and answers what it would cost, without queueing it.

    The answer has no name. Its `progress` holds the planned evaluations and tokens, and the rough time where workers
    have measured how fast they are. It needs no worker.

    Args:
        question: a prompt: text, token ids or chat messages; or a whole spec of an explanation or a study, which says
            everything.
        method: name of a method, or its message. Default: occlusion.
        timeout: seconds. Default: the client's.
        asked: target, features, removal and so on, as `explain` takes them.
    """
    call = create(question, method, timeout=timeout, **asked)
    cast(v1.CreateExplanationRequest, call.request).validate_only = True
    return call


def explain(
    prompt: PromptLike,
    method: MethodLike = "occlusion",
    *,
    target: TargetLike | None = None,
    against: ContinuationLike | None = None,
    continuation: ContinuationLike | None = None,
    generation: int | None = None,
    scale: ScaleName | None = None,
    features: FeaturesLike | None = None,
    within: tuple[int, int] | None = None,
    removal: v1.Removal | RemovalName | None = None,
    replacement: str | None = None,
    rows: RowsLike | None = None,
    pairs: bool | None = None,
    max_evaluations: int | None = None,
    max_duration: DurationLike | None = None,
    standard_error: float | None = None,
    seed: int | None = None,
    faithfulness: bool | None = None,
    precision: PrecisionName | None = None,
    model: str = "",
    fresh: bool = False,
    request_id: str | None = None,
    wait: bool = True,
    on_progress: Callable[[v1.Explanation], None] | None = None,
    timeout: float | None = None,
    **parameters: Any,
) -> Conversation[v1.Explanation]:
    """Asks why: which parts of the prompt support the prediction, and how strongly.

    Args:
        prompt: text, token ids or chat messages.
        method: name of a method ("lime"), or its message.
        target: the next token that is explained, as text or id. Default: the model's most likely one.
        against: why the target rather than this?
        continuation: explain this whole continuation instead of one token.
        generation: explain the model's own generation, of at most so many tokens.
        scale: explain the log-probability (default) or the probability.
        features: "token", "word" (default) or "sentence", or half-open character spans.
        within: only units that begin in this half-open range of characters; the rest is never changed.
        removal: "mask", "delete", "similar", "similar-slopes", "text-and-delete" or "mean-embedding". Default: mask
            where the model has such a token, else delete.
        replacement: a text that takes a removed feature's place, instead of `removal`.
        rows: attributions of the parts of a continuation or a generation too, from the same evaluations: "token",
            "word" or "sentence", or half-open character spans of its text. `gloss.values.row_attributions` reads them.
        pairs: for interactions, whether each row has pairs too. Default: no.
        max_evaluations: the most model evaluations. Default: what the method needs; of one that samples at most 1,000,
            and fewer where the largest attributions are settled before.
        max_duration: the most time, as seconds or a timedelta. Default: the worker's limit.
        standard_error: a sampling method stops once every standard error is below this.
        seed: of all draws.
        faithfulness: whether to measure how well the attributions predict the model. Default: yes.
        precision: "float32" (default), or "auto": bfloat16 where it is faster and its measured error is small.
        model: name of the model. Default: the server's.
        fresh: compute everything again, even if the same spec was explained before.
        request_id: makes creating it safe to repeat. Default: a random one.
        wait: wait for the end; False answers the queued explanation at once.
        on_progress: called with the explanation whenever it changes; it holds no spec while we wait.
        timeout: the most seconds to wait for the end. Default: as long as it takes.
        parameters: the method's own, as the contract names them (``surrogate="lasso", alpha=0.1``).

    Raises:
        ExplanationFailedError: it ended as FAILED or CANCELLED while we waited.
        ValueError: the method has no such parameter.
    """
    spec = build.spec(
        build.prompt(prompt),
        build.method(method, **parameters),
        model=model,
        target=build.target(target, against=against, follow=continuation, generation=generation, scale=scale),
        features=build.features(features, within=within),
        removal=build.removal(removal, replacement=replacement),
        budget=build.budget(
            max_evaluations=max_evaluations, max_duration=max_duration, standard_error=standard_error, seed=seed
        ),
        faithfulness=faithfulness,
        precision=precision,
        rows=build.rows(rows, pairs=pairs),
    )
    creating = create(spec, fresh=fresh, request_id=request_id)
    return Conversation(explain_steps(creating, wait=wait, on_progress=on_progress, timeout=timeout))


def study(
    method: StudyLike,
    *,
    target: TargetLike | None = None,
    against: ContinuationLike | None = None,
    continuation: ContinuationLike | None = None,
    generation: int | None = None,
    scale: ScaleName | None = None,
    max_evaluations: int | None = None,
    max_duration: DurationLike | None = None,
    seed: int | None = None,
    precision: PrecisionName | None = None,
    model: str = "",
    fresh: bool = False,
    request_id: str | None = None,
    wait: bool = True,
    on_progress: Callable[[v1.Explanation], None] | None = None,
    timeout: float | None = None,
) -> Conversation[v1.Explanation]:
    """Asks about many prompts: which words go with a prediction, or what differs between groups of words.

    Args:
        method: what `build.global_surrogate` or `build.bias_probe` makes.
        target: the next token that is asked about, as text or id. Default: the first text's most likely one.
        against: why the target rather than this?
        continuation: ask about this whole continuation instead of one token.
        generation: ask about the model's own generation after the first text, of at most so many tokens.
        scale: look at the log-probability (default) or the probability.
        max_evaluations: refuse the study if it has more texts.
        max_duration: the most time, as seconds or a timedelta. Default: the worker's limit.
        seed: of all draws.
        precision: "float32" (default), or "auto": bfloat16 where it is faster and its measured error is small.
        model: name of the model. Default: the server's.
        fresh: compute everything again, even if the same study was made before.
        request_id: makes creating it safe to repeat. Default: a random one.
        wait: wait for the end; False answers the queued explanation at once. Its `study_result` has what was found.
        on_progress: called with the explanation whenever it changes; it holds no spec while we wait.
        timeout: the most seconds to wait for the end. Default: as long as it takes.

    Raises:
        ExplanationFailedError: it ended as FAILED or CANCELLED while we waited.
    """
    spec = build.study(
        method,
        model=model,
        target=build.target(target, against=against, follow=continuation, generation=generation, scale=scale),
        budget=build.budget(max_evaluations=max_evaluations, max_duration=max_duration, seed=seed),
        precision=precision,
    )
    creating = create(spec, fresh=fresh, request_id=request_id)
    return Conversation(explain_steps(creating, wait=wait, on_progress=on_progress, timeout=timeout))


def get(name: str, *, view: ViewName | None = None, timeout: float | None = None) -> Unary[v1.Explanation]:
    """One explanation, with its partial or final result.

    Args:
        name: "explanations/ID" or the ID alone.
        view: "full" (default), or "basic" without the spec.
        timeout: seconds. Default: the client's.
    """
    request = v1.GetExplanationRequest(name=build.resource_name(name), view=_view(view))
    return Unary(EXPLANATIONS, "GetExplanation", request, v1.Explanation, timeout)


def list_(
    *,
    state: StateName | None = None,
    view: ViewName | None = None,
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages:
    """All explanations, newest first, without their results; further pages are fetched as the loop reaches them.

    Args:
        state: only those in this state. Default: all.
        view: "basic" (default) without the specs, or "full".
        page_size: how many to fetch at a time. Default: the server's.
        timeout: seconds for each page. Default: the client's.
    """
    request = fill(v1.ListExplanationsRequest(), {"state": state, "view": view, "page_size": page_size})
    return Pages(request, timeout)


def watch(name: str, *, view: ViewName | None = None, timeout: float | None = None) -> Watch:
    """The explanation now, and again whenever it changes, until it ends.

    A dropped connection is taken up again, so this outlives a restart of the server.

    Args:
        name: "explanations/ID" or the ID alone.
        view: "basic" (default) without the spec, which is long at times and never changes; or "full".
        timeout: the most seconds for the whole wait. Default: as long as it takes.
    """
    return Watch(v1.WatchExplanationRequest(name=build.resource_name(name), view=_view(view)), timeout)


def cancel(name: str, *, timeout: float | None = None) -> Unary[v1.Explanation]:
    """Stops an explanation, which keeps its partial result; `name` is "explanations/ID" or the ID alone."""
    request = v1.CancelExplanationRequest(name=build.resource_name(name))
    return Unary(EXPLANATIONS, "CancelExplanation", request, v1.Explanation, timeout)


def delete(name: str, *, timeout: float | None = None) -> Unary[v1.DeleteExplanationResponse]:
    """Cancels an explanation where needed and forgets it; `name` is "explanations/ID" or the ID alone."""
    request = v1.DeleteExplanationRequest(name=build.resource_name(name))
    return Unary(EXPLANATIONS, "DeleteExplanation", request, v1.DeleteExplanationResponse, timeout)


def _view(name: ViewName | None) -> v1.ExplanationView:
    view: v1.ExplanationView = enum_value(v1.ExplanationView, name)
    return view
