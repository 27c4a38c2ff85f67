"""Builds the contract's messages from plain Python values: ``"text"``, ``[12, 7]``, ``"word"``, ``(3, 9)``.

Every function also takes the message itself, so that everything in the contract can be sent. Values that the contract
does not know raise `ValueError`; all other checks are the server's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, Literal, SupportsIndex, cast

from google.protobuf.message import Message

from gloss import v1
from gloss.durations import DurationLike
from gloss.errors import unicode_only
from gloss.values import fill, given

ChatMessageLike = v1.ChatMessage | tuple[str, str] | Mapping[str, str]
"""One chat message: ``("user", "Hello")`` or ``{"role": "user", "content": "Hello"}``."""

PromptLike = v1.Prompt | str | Sequence[int] | Sequence[ChatMessageLike]
"""Text, token ids, or a conversation."""

ContinuationLike = v1.Continuation | str | Sequence[int]
"""Text (write the space that separates it from the prompt) or token ids."""

TargetLike = v1.Target | str | int
"""The next token: the first token of a text, or an id."""

UnitName = Literal["token", "word", "sentence"]
TextUnitName = Literal["word", "sentence", "item", "line", "paragraph"]
FeaturesLike = v1.Features | UnitName | Sequence[tuple[int, int]]
"""A unit of the prompt, or the caller's own character spans."""

RowsLike = v1.Rows | UnitName | Sequence[tuple[int, int]]
"""A unit of the target's text, or the caller's own character spans of it."""

RemovalName = Literal["mask", "delete", "text-and-delete", "mean-embedding", "similar", "similar-slopes"]
ScaleName = Literal["log-probability", "probability"]
PrecisionName = Literal["float32", "auto"]

MethodLike = str | Message
"""A method of the contract by the name of its field ("kernel-shap"), or its own message (`v1.KernelShap()`)."""

StudyLike = v1.GlobalSurrogate | v1.BiasProbe
"""The method of a study, from `global_surrogate` or `bias_probe`."""

REMOVALS: dict[str, v1.RemovalKind] = {
    "mask": v1.REMOVAL_KIND_MASK_TOKEN,
    "delete": v1.REMOVAL_KIND_DELETE,
    "mean-embedding": v1.REMOVAL_KIND_MEAN_EMBEDDING,
    "text-and-delete": v1.REMOVAL_KIND_TEXT_AND_DELETE,
    "similar": v1.REMOVAL_KIND_SIMILAR,
    "similar-slopes": v1.REMOVAL_KIND_SIMILAR_SLOPES,
}
METHOD_FIELDS = tuple(field.name for field in v1.ExplanationSpec.DESCRIPTOR.oneofs_by_name["method"].fields)
"""The fields of `ExplanationSpec` that choose a method."""
METHODS = tuple(name.replace("_", "-") for name in METHOD_FIELDS)
"""The methods' names."""


def prompt(value: PromptLike) -> v1.Prompt:
    """A prompt from text, token ids or chat messages.

    Raises:
        TypeError: it is something else. Bytes are no text, and their numbers no tokens.
    """
    if isinstance(value, v1.Prompt):
        return value
    if isinstance(value, str):
        return v1.Prompt(text=value)
    items = _items(value)
    if items is not None and _are_ids(items):
        return v1.Prompt(token_ids=_token_ids(items))
    if items is not None and all(_is_message(item) for item in items):
        return v1.Prompt(chat=v1.Chat(messages=map(_message, items)))
    raise TypeError(f"a prompt is text, token ids or chat messages with role and content, not {value!r:.60}")


def prompts(value: PromptLike | Sequence[PromptLike]) -> list[v1.Prompt]:
    """A batch of prompts; one prompt is a batch of one.

    A list of ints is one prompt of token ids and a list of messages is one conversation; any other list is a batch.
    """
    items = _items(value)
    if items is None or (items and (_are_ids(items) or all(_is_message(item) for item in items))):
        return [prompt(cast(PromptLike, value))]
    return [prompt(item) for item in items]


def _items(value: object) -> list[Any] | None:
    """The items of a list, or of an array of numbers; None for what is one value, such as a text or bytes."""
    if isinstance(value, str | bytes | bytearray | Mapping | Message) or not hasattr(value, "__len__"):
        return None
    return list(cast(Sequence[Any], value))


def _are_ids(items: Sequence[Any]) -> bool:
    """Whether all are whole numbers, those of arrays too. Arrays of several numbers are none."""
    if {int}.issuperset(map(type, items)):  # of all cases the most frequent, and the fastest to check
        return True
    return all(hasattr(item, "__index__") and not getattr(item, "shape", ()) for item in items)


def _token_ids(items: Sequence[SupportsIndex]) -> v1.TokenIds:
    ids = items if {int}.issuperset(map(type, items)) else map(index, items)
    return fill(v1.TokenIds(), {"ids": ids})


def _is_message(item: object) -> bool:
    match item:
        case v1.ChatMessage() | (str(), str()) | {"role": str(), "content": str()}:
            return True
    return False


def _message(value: ChatMessageLike) -> v1.ChatMessage:
    if isinstance(value, v1.ChatMessage):
        return value
    role, content = (value["role"], value["content"]) if isinstance(value, Mapping) else value
    return v1.ChatMessage(role=role, content=content)


def continuation(value: ContinuationLike) -> v1.Continuation:
    """A continuation from text or token ids.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, v1.Continuation):
        return value
    if isinstance(value, str):
        return v1.Continuation(text=value)
    items = _items(value)
    if items is None or not _are_ids(items):
        raise TypeError(f"a continuation is text or token ids, not {value!r:.60}")
    return v1.Continuation(token_ids=_token_ids(items))


def target(
    value: TargetLike | None = None,
    *,
    against: ContinuationLike | None = None,
    follow: ContinuationLike | None = None,
    generation: int | None = None,
    scale: ScaleName | None = None,
) -> v1.Target | None:
    """The target of an explanation; None for the contract's default, the model's most likely next token.

    Args:
        value: a next token, or with `against` the preferred side of a contrast.
        against: why `value` rather than this?
        follow: a whole continuation, all of whose tokens count.
        generation: the model's own generation, of at most so many tokens.
        scale: log-probability (the default) or probability.
    """
    if isinstance(value, v1.Target):
        if given((against, follow, generation, scale)):
            raise ValueError("a Target message is complete: leave out against, continuation, generation and scale")
        return value
    if not given((value, against, follow, generation, scale)):
        return None
    if sum(given(kind) for kind in ((value, against), (follow,), (generation,))) > 1:
        raise ValueError("a target is either one token, a contrast, a continuation or a generation")

    built = fill(v1.Target(), {"scale": scale})
    if generation is not None:
        fill(built.generation, {"max_tokens": generation})
    elif follow is not None:
        built.continuation.CopyFrom(continuation(follow))
    elif against is not None:
        if value is None:
            raise ValueError("a contrast has two sides: give the preferred target too")
        chosen = continuation(value if isinstance(value, str) else [value])
        built.contrast.CopyFrom(v1.ContrastTarget(chosen=chosen, rejected=continuation(against)))
    elif value is not None:
        fill(built.next_token, {"text" if isinstance(value, str) else "id": value})
    return built


def features(value: FeaturesLike | None = None, *, within: tuple[int, int] | None = None) -> v1.Features | None:
    """The features of an explanation; None for the contract's default, the prompt's words.

    Args:
        value: a unit's name, or half-open character spans.
        within: only units that begin in this half-open range of characters.
    """
    if value is None and within is None:
        return None
    built = v1.Features()
    if isinstance(value, v1.Features):
        built.CopyFrom(value)
    elif isinstance(value, str):
        fill(built, {"unit": value})
    elif value is not None:
        built.spans.extend(_span("spans", span) for span in value)
    if within is not None:
        built.within.CopyFrom(_span("within", within))
    return built


def rows(value: RowsLike | None = None, *, pairs: bool | None = None) -> v1.Rows | None:
    """The parts of the target that get attributions of their own; None for the whole target only.

    Args:
        value: a unit's name, or half-open character spans of the target's text.
        pairs: whether interactions have rows of pairs too.
    """
    if value is None and pairs is None:
        return None
    built = v1.Rows()
    if isinstance(value, v1.Rows):
        built.CopyFrom(value)
    elif isinstance(value, str):
        fill(built, {"unit": value})
    elif value is not None:
        built.spans.extend(_span("rows", span) for span in value)
    return fill(built, {"pairs": pairs})


def _span(field: str, value: Sequence[int]) -> v1.CharacterSpan:
    try:
        start, end = value
        return v1.CharacterSpan(start=start, end=end)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{field}: {value!r} is not a start and an end, two whole numbers") from error


def removal(value: v1.Removal | RemovalName | None = None, *, replacement: str | None = None) -> v1.Removal | None:
    """How features are removed; None for the contract's default.

    Args:
        value: a kind of removal.
        replacement: the text that replaces a feature, instead of a kind.
    """
    if isinstance(value, v1.Removal):
        if replacement is not None:
            raise ValueError("a Removal message is complete: leave out the replacement")
        return value
    if replacement is not None:
        if value is not None:
            raise ValueError("a replacement text is a removal by itself: leave out the kind")
        return v1.Removal(kind=v1.REMOVAL_KIND_TEXT, text=replacement)
    if value is None:
        return None
    if value not in REMOVALS:
        raise ValueError(f"removal {value!r} is unknown; choose from {', '.join(REMOVALS)}, or give a replacement")
    return v1.Removal(kind=REMOVALS[value])


def method(name: MethodLike, **parameters: Any) -> Message:
    """A method's message: ``method("lime", surrogate="lasso", alpha=0.1)``.

    Args:
        name: its name, or a message that the parameters complete.
        parameters: the method's fields in the contract; None is not sent.

    Raises:
        TypeError: it is neither text nor a message.
        ValueError: there is no such method, or it has no such parameter.
    """
    if not isinstance(name, str | Message):
        raise TypeError(f"a method is a name such as {METHODS[0]!r}, or a message, not {name!r}")
    if isinstance(name, str):
        field = name.replace("-", "_")
        if field not in METHOD_FIELDS:
            raise ValueError(f"method {name!r} is unknown; choose from {', '.join(METHODS)}")
        kind: type[Message] = type(getattr(v1.ExplanationSpec(), field))
        return fill(kind(), parameters)
    built = type(name)()
    built.CopyFrom(name)
    return fill(built, parameters)


def budget(
    *,
    max_evaluations: int | None = None,
    max_duration: DurationLike | None = None,
    standard_error: float | None = None,
    seed: int | None = None,
) -> v1.Budget | None:
    """When to stop; None, for the contract's defaults, if nothing is given. `max_duration` is in seconds."""
    limits = {
        "max_evaluations": max_evaluations,
        "max_duration": max_duration,
        "standard_error": standard_error,
        "seed": seed,
    }
    return fill(v1.Budget(), limits) if given(limits.values()) else None


def spec(
    prompt: v1.Prompt,
    method: Message,
    *,
    model: str = "",
    target: v1.Target | None = None,
    features: v1.Features | None = None,
    removal: v1.Removal | None = None,
    budget: v1.Budget | None = None,
    faithfulness: bool | None = None,
    precision: PrecisionName | None = None,
    rows: v1.Rows | None = None,
) -> v1.ExplanationSpec:
    """The spec of an explanation. Parts that are None have the contract's defaults."""
    built = v1.ExplanationSpec(
        model=model,
        prompt=prompt,
        target=target,
        features=features,
        removal=removal,
        budget=budget,
        quality=None if faithfulness is None else fill(v1.Quality(), {"faithfulness": faithfulness}),
        rows=rows,
    )
    fill(built, {"precision": precision})
    _choose(built, method)
    return built


def study(
    method: StudyLike,
    *,
    model: str = "",
    target: v1.Target | None = None,
    budget: v1.Budget | None = None,
    precision: PrecisionName | None = None,
) -> v1.StudySpec:
    """The spec of a study. Parts that are None have the contract's defaults."""
    built = fill(v1.StudySpec(model=model, target=target, budget=budget), {"precision": precision})
    _choose(built, method)
    return built


@unicode_only()
def global_surrogate(prompts: Sequence[PromptLike], **parameters: Any) -> v1.GlobalSurrogate:
    """A study of which words, over many prompts, go with a prediction: ``surrogate="decision-tree"``, ``max_depth=4``.

    Raises:
        ValueError: there is no such parameter.
    """
    each = [prompts] if isinstance(prompts, str) else prompts
    return fill(v1.GlobalSurrogate(prompts=map(prompt, each)), parameters)


@unicode_only()
def bias_probe(templates: Sequence[str], groups: Mapping[str, Sequence[str]]) -> v1.BiasProbe:
    """A study that compares groups of words in the slot "{}" of templates.

    Args:
        templates: texts with the slot.
        groups: words by label; the first words of all groups are compared with each other, then the second ones...
    """
    sets = [v1.SwapSet(label=label, words=texts(words)) for label, words in groups.items()]
    return v1.BiasProbe(templates=texts(templates), groups=sets)


def texts(value: Sequence[str]) -> Sequence[str]:
    """A list of texts; a single text is a list of one."""
    return [value] if isinstance(value, str) else value


def _choose(spec: v1.ExplanationSpec | v1.StudySpec, method: Message) -> None:
    """Set the member of the oneof `method` that has the type of `method`.

    Raises:
        TypeError: `method` is no message.
        ValueError: there is none.
    """
    if not isinstance(method, Message):
        raise TypeError(f"the method of {spec.DESCRIPTOR.name} is a message, not {method!r}")
    members = {field.name: field.message_type for field in spec.DESCRIPTOR.oneofs_by_name["method"].fields}
    for name, kind in members.items():
        if kind is method.DESCRIPTOR:
            getattr(spec, name).CopyFrom(method)
            getattr(spec, name).SetInParent()  # an empty message chooses the method too, with its defaults
            return
    choices = ", ".join(members)
    raise ValueError(f"{method.DESCRIPTOR.name} is no method of {spec.DESCRIPTOR.name}; choose from {choices}")


def resource_name(name: str) -> str:
    """The resource name of an explanation: ``explanations/ID`` from itself or from ``ID``.

    Raises:
        TypeError: it is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f'the name of an explanation is text, "explanations/ID" or the ID, not {type(name).__name__}')
    return name if "/" in name else f"explanations/{name}"
