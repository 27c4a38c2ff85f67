"""The calls that `cite` takes, each of which depends on the results of those before it. Nothing is sent here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from google.protobuf.message import Message

from gloss import build, documents, sources, v1
from gloss.build import MethodLike, PrecisionName
from gloss.calls import explanations, inference
from gloss.citations import LEVEL, LIMIT, SHARE, Citations, Rule, Sentence, joint_level, judge
from gloss.cited_prompt import CitedPrompt, SourceUnit, length_errors, prepared_prompt
from gloss.documents import PLAIN, ContextLike, Span
from gloss.durations import DurationLike
from gloss.errors import GlossError, unicode_only
from gloss.plans import Conversation, Steps, explain_steps

Outcome = TypeVar("Outcome")

METHOD = "kernel-shap"
METHODS = tuple(
    name for name in build.METHODS if name not in ("attention-rollout", "value-zeroing", "integrated-gradients")
)
"""Methods that attribute each sentence and can leave a source out. Integrated gradients put a token in the place of
each one that they remove."""
MAX_TOKENS = 128
"""Tokens of an answer, unless the caller says how many."""
_ITEMS, _TOKENS = 16, 2048
"""The most prompts that one call scores, and about how many tokens these may have: a large model on a CPU takes seconds
for them, and the call stays within its time limit."""
_HALF_CHARACTER = "\ufffd"
"""What the server writes for the bytes of a character that is not complete."""


def cite(
    context: ContextLike,
    question: str,
    *,
    answer: str | None = None,
    unit: SourceUnit = "sentence",
    template: str | None = None,
    max_tokens: int | None = None,
    method: MethodLike = METHOD,
    share: float = SHARE,
    limit: float = LIMIT,
    level: float = LEVEL,
    max_evaluations: int | None = None,
    max_duration: DurationLike | None = None,
    seed: int | None = None,
    precision: PrecisionName | None = None,
    model: str = "",
    fresh: bool = False,
    on_progress: Callable[[v1.Explanation], None] | None = None,
    timeout: float | None = None,
    **parameters: Any,
) -> Conversation[Citations]:
    """Asks a question about documents, and says which of their passages each sentence of the answer rests on.

    Args:
        context: a text, texts by the names of their files, or `gloss.documents.Document`s.
        question: what is asked about it.
        answer: attribute this answer, of another system for instance. Default: the model answers.
        unit: what a source is: a "sentence", an "item" (of a list, or a paragraph), a "line" or a "paragraph".
        template: the prompt as text, with "{context}" and "{question}" in it. Default: the model's chat template where
            it has one, else `gloss.documents.PLAIN`.
        max_tokens: the most tokens of the model's answer. Default: 128, or as many as the context has room for.
        method: name of a method that gives rows, or its message. Default: KernelSHAP.
        share: of what all sources do for a sentence, the least that one must carry to be cited. Default: 0.05.
        limit: nats; a sentence for which all sources do less rests on none of them. Default: 1.
        level: confidence that no source is cited by chance. Default: 0.95.
        max_evaluations: the most model evaluations. Default: as many as the sources ask for.
        max_duration: the most time of the job, as seconds or a timedelta. Default: the worker's limit.
        seed: of all draws.
        precision: "float32" (default), or "auto": bfloat16 where it is faster and its measured error is small.
        model: name of the model. Default: the server's.
        fresh: compute everything again, even if the same was asked before.
        on_progress: called with the explanation whenever it changes.
        timeout: seconds for the answer, and for the explanation. Default: the client's, and as long as it takes.
        parameters: the method's own, as the contract names them.

    Raises:
        TypeError: the context is neither text nor texts by their names; question, answer or template is no text.
        ValueError: context, question or answer is blank, or is no text; the template lacks its marks; there is no such
            unit; the method is not one of `METHODS`.
        ExplanationFailedError: the job ended as FAILED or CANCELLED.
    """
    rule, chosen = Rule(share, limit, level), _method(method, parameters)
    written = _written(context, question, answer, template)

    def steps() -> Steps[Citations]:
        prepared = yield from prepared_prompt(written, unit, model, is_plain=template is not None)
        follow: str | list[int]
        if answer is None:
            text, follow, complete = yield from _generated_answer(prepared, max_tokens, model, timeout)
        else:
            text = follow = yield from _checked_answer(prepared, answer, model)
            complete = True
        found = Citations(question.strip(), text.strip(), complete, prepared.sources.passages, (), rule)
        if not text.strip():
            return found
        budget = _budget(prepared, max_evaluations, max_duration, seed)
        spec = _spec(prepared, build.target(follow=follow), chosen, budget, model=model, precision=precision)
        creating = explanations.create(spec, fresh=fresh)
        with length_errors():
            explanation = yield from explain_steps(creating, wait=True, on_progress=on_progress, timeout=timeout)
        result = explanation.result
        sentences = yield from _confirmed(judge(result, rule), result, prepared.question, rule, model)
        level = joint_level(result, rule)
        return replace(
            found, answer=result.target.text.strip(), sentences=sentences, level=level, explanation=explanation
        )

    return Conversation(_of_unicode(steps()))


def estimate_citations(
    context: ContextLike,
    question: str,
    *,
    answer: str | None = None,
    unit: SourceUnit = "sentence",
    template: str | None = None,
    max_tokens: int | None = None,
    method: MethodLike = METHOD,
    max_evaluations: int | None = None,
    max_duration: DurationLike | None = None,
    seed: int | None = None,
    precision: PrecisionName | None = None,
    model: str = "",
    timeout: float | None = None,
    **parameters: Any,
) -> Conversation[v1.Explanation]:
    """Checks what `cite` is asked, and answers what attributing the answer would cost, without generating or queueing.

    As for `estimate`, the answer has no name, its `progress` holds the planned evaluations and tokens, and it needs no
    worker. Without `answer`, the model's is counted with as many tokens as it may have, and as one sentence, of which
    only gradients take more for more.

    Args:
        context: as for `cite`, and so are all others.
        question: what is asked about it.
        answer: the answer to attribute. Default: the model answers.
        unit: what a source is.
        template: the prompt as text.
        max_tokens: the most tokens of the model's answer.
        method: name of a method that gives rows, or its message.
        max_evaluations: the most model evaluations.
        max_duration: the most time of the job.
        seed: of all draws.
        precision: "float32" or "auto".
        model: name of the model.
        timeout: seconds for the last call. Default: the client's.
        parameters: the method's own.

    Raises:
        TypeError: as `cite` does.
        ValueError: as `cite` does.
    """
    chosen, written = _method(method, parameters), _written(context, question, answer, template)

    def steps() -> Steps[v1.Explanation]:
        prepared = yield from prepared_prompt(written, unit, model, is_plain=template is not None)
        if answer is None:
            target = build.target(generation=_answer_tokens(prepared, max_tokens))
        else:
            target = build.target(follow=(yield from _checked_answer(prepared, answer, model)))
        budget = _budget(prepared, max_evaluations, max_duration, seed)
        spec = _spec(prepared, target, chosen, budget, model=model, precision=precision)
        if answer is None:  # rows of its sentences, of which nobody knows how many there are
            spec.ClearField("rows")
        with length_errors():
            estimate: v1.Explanation = yield explanations.estimate(spec, timeout=timeout)
        return estimate

    return Conversation(_of_unicode(steps()))


def _method(method: MethodLike, parameters: dict[str, Any]) -> Message:
    """The message of a method that attributes each sentence."""
    chosen = build.method(method, **parameters)
    if not any(isinstance(chosen, type(build.method(name))) for name in METHODS):
        raise ValueError(f"this method cannot leave sources out for each sentence; choose from {', '.join(METHODS)}")
    return chosen


def _written(context: ContextLike, question: str, answer: str | None, template: str | None) -> documents.Prompt:
    """Documents and question in a template of text; the answer is only checked."""
    if answer is not None:
        documents.check_text("the answer", answer)
        if not answer.strip():
            raise ValueError("the answer is blank")
    return documents.prompt(PLAIN if template is None else template, documents.documents(context), question)


def _of_unicode(steps: Steps[Outcome]) -> Steps[Outcome]:
    with unicode_only():
        return (yield from steps)


def _budget(
    prepared: CitedPrompt, max_evaluations: int | None, max_duration: DurationLike | None, seed: int | None
) -> v1.Budget | None:
    limit = _evaluations(len(prepared.sources.spans)) if max_evaluations is None else max_evaluations
    return build.budget(max_evaluations=limit, max_duration=max_duration, seed=seed)


def _spec(
    prepared: CitedPrompt,
    target: v1.Target | None,
    method: Message,
    budget: v1.Budget | None,
    *,
    model: str,
    precision: PrecisionName | None,
) -> v1.ExplanationSpec:
    """The attribution of each sentence of an answer to the sources."""
    return build.spec(
        prepared.prompt,
        method,
        model=model,
        target=target,
        features=build.features(prepared.sources.spans),
        removal=build.removal("delete"),
        budget=budget,
        faithfulness=False,
        precision=precision,
        rows=build.rows("sentence"),
    )


def _evaluations(count: int) -> int:
    """How many evaluations it takes to tell so many sources apart."""
    return max(64, 8 * count)


def _answer_tokens(prepared: CitedPrompt, max_tokens: int | None) -> int:
    """The most tokens of the model's own answer."""
    return min(MAX_TOKENS, prepared.answer_tokens) if max_tokens is None else max_tokens


def _generated_answer(
    prepared: CitedPrompt, max_tokens: int | None, model: str, timeout: float | None
) -> Steps[tuple[str, str | list[int], bool]]:
    """The model's own answer, what to explain of it, and whether it ended by itself.

    Its text is explained, or its tokens where these write bytes that are no text: those of a text are others.
    """
    limit = _answer_tokens(prepared, max_tokens)
    step = inference.generate(
        prepared.prompt,
        max_tokens=limit,
        stop=prepared.stop,
        no_placeholders=True,
        model=model,
        timeout=timeout,
    )
    with length_errors():
        replies: list[v1.GenerateResponse] = yield step
    text = "".join(reply.text for reply in replies)
    complete = replies[-1].finish_reason != v1.FINISH_REASON_LENGTH
    text = (text if complete else _whole_part(text, prepared.stop)).rstrip()
    if _HALF_CHARACTER not in text or replies[-1].finish_reason == v1.FINISH_REASON_STOP:
        return text, text, complete
    return text, [reply.token.id for reply in (replies[:-1] if complete else replies)], complete


def _whole_part(text: str, stop: Sequence[str]) -> str:
    """An answer that was cut, without the half of a character or of a stop text that it was cut in."""
    whole = text.rstrip(_HALF_CHARACTER)
    for each in stop:
        begun = (each[:length] for length in range(len(each) - 1, 0, -1))
        whole = next((whole.removesuffix(part) for part in begun if whole.endswith(part)), whole)
    return whole


def _checked_answer(prepared: CitedPrompt, answer: str, model: str) -> Steps[str]:
    """The caller's answer as it follows the prompt, with a space where one is missing."""
    try:
        read: v1.TokenizeResponse = yield inference.tokenize(answer, model=model)
    except GlossError as error:
        if error.field == "prompt.text" and error.reason == "INVALID_FIELD":
            message = error.message.replace(error.field, "the answer", 1)
            raise GlossError(error.code, message, reason=error.reason, metadata=error.metadata) from error
        if error.reason != "PROMPT_TOO_LONG":
            raise
        read = v1.TokenizeResponse()  # the explanation will be refused, with an error that says what is too long
    for position in read.special_positions:
        if sources.spells_out(read, read.tokens[position]):
            raise sources.command_error("the answer", read.tokens[position].text)
    answer = answer.rstrip()
    return answer if prepared.text[-1:].isspace() or answer[:1].isspace() else f" {answer}"


def _confirmed(
    sentences: Sequence[Sentence], result: v1.ExplanationResult, question: Span, rule: Rule, model: str
) -> Steps[tuple[Sentence, ...]]:
    """`sentences`, with what leaving out the question, each cited source, and all that are cited together does."""
    [of_question] = map(frozenset, sources.own(result, [question]))
    owned = [frozenset(part.positions) for part in result.attributions]
    together = [frozenset[int]().union(*(owned[index] for index in sentence.cited)) for sentence in sentences]
    each = (owned[index] for sentence in sentences for index in sentence.cited)
    without = yield from _scores_without([*dict.fromkeys([of_question, *each, *together])], result, model)

    def cost(sentence: Sentence, left_out: frozenset[int]) -> float:
        return sentence.log_probability - sum(without[left_out][token] for token in sentence.tokens)

    return tuple(
        sentence.with_costs(
            rule,
            question=cost(sentence, of_question),
            sources=[cost(sentence, owned[index]) for index in sentence.cited],
            together=cost(sentence, all_cited),
        )
        for sentence, all_cited in zip(sentences, together, strict=True)
    )


def _scores_without(
    parts: Sequence[frozenset[int]], result: v1.ExplanationResult, model: str
) -> Steps[dict[frozenset[int], list[float]]]:
    """The log-probabilities of the answer's tokens after the prompt without the tokens at some positions."""
    found: dict[frozenset[int], list[float]] = {}
    answer = [token.id for token in result.target.tokens]
    at_once = max(1, min(_ITEMS, _TOKENS // (len(result.tokens) + len(answer))))
    for first in range(0, len(parts), at_once):
        batch = parts[first : first + at_once]
        prompts = [[token.id for at, token in enumerate(result.tokens) if at not in part] for part in batch]
        scored: v1.ScoreResponse = yield inference.score_many([(prompt, answer) for prompt in prompts], model=model)
        for part, score in zip(batch, scored.scores, strict=True):
            found[part] = [token.log_probability for token in score.tokens]
    return found
