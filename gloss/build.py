"""Builds the contract's messages from plain Python values: ``"text"``, ``[12, 7]``, ``"word"``, ``(3, 9)``.

Every function also takes the message itself, so whatever the contract can say can be said. Values that the contract
has no word for raise `ValueError`; all other checks are the server's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from gloss import v1

Message = v1.ChatMessage | tuple[str, str] | Mapping[str, str]
"""One chat message: ``("user", "Hello")`` or ``{"role": "user", "content": "Hello"}``."""

PromptLike = v1.Prompt | str | Sequence[int] | Sequence[Message]
"""Text, token ids, or a conversation."""

ContinuationLike = v1.Continuation | str | Sequence[int]
"""Text (write the space that separates it from the prompt) or token ids."""

TargetLike = v1.Target | str | int
"""The next token: the first token of a text, or an id."""

UnitName = Literal["token", "word", "sentence"]
FeaturesLike = v1.Features | UnitName | Sequence[tuple[int, int]]
"""A unit of the prompt, or the caller's own character spans."""

RemovalName = Literal["mask", "delete", "mean-embedding"]
ScaleName = Literal["log-probability", "probability"]
PrecisionName = Literal["float32", "auto"]
EstimatorName = Literal["control-variates", "textbook"]

MethodName = Literal[
    "occlusion",
    "lime",
    "kernel-shap",
    "shapley-permutation",
    "input-times-gradient",
    "integrated-gradients",
    "attention-rollout",
    "value-zeroing",
    "context-attribution",
    "interactions",
]
MethodMessage = (
    v1.Occlusion
    | v1.Lime
    | v1.KernelShap
    | v1.ShapleyPermutation
    | v1.InputTimesGradient
    | v1.IntegratedGradients
    | v1.AttentionRollout
    | v1.ValueZeroing
    | v1.ContextAttribution
    | v1.Interactions
    | v1.GlobalSurrogate
    | v1.BiasProbe
)
MethodLike = MethodName | MethodMessage
"""A method with its defaults, by name, or the method's own message."""

_REMOVALS: dict[str, v1.RemovalKind] = {
    "mask": v1.REMOVAL_KIND_MASK_TOKEN,
    "delete": v1.REMOVAL_KIND_DELETE,
    "mean-embedding": v1.REMOVAL_KIND_MEAN_EMBEDDING,
}
METHOD_FIELDS = tuple(field.name for field in v1.ExplanationSpec.DESCRIPTOR.oneofs_by_name["method"].fields)
"""The spec's fields that choose a method."""

_METHODS = {"".join(part.title() for part in name.split("_")): name for name in METHOD_FIELDS}
"""The spec's field for each method message: {"KernelShap": "kernel_shap"}."""


def prompt(value: PromptLike) -> v1.Prompt:
    """A prompt from text, token ids or chat messages."""
    if isinstance(value, v1.Prompt):
        return value
    if isinstance(value, str):
        return v1.Prompt(text=value)
    ids = [item for item in value if isinstance(item, int)]
    if len(ids) == len(value):
        return v1.Prompt(token_ids=v1.TokenIds(ids=ids))
    return v1.Prompt(chat=v1.Chat(messages=[_message(item) for item in value if not isinstance(item, int)]))


def prompts(value: PromptLike | Sequence[PromptLike]) -> list[v1.Prompt]:
    """A batch of prompts; one prompt is a batch of one.

    A list of ints is one prompt of token ids and a list of messages is one conversation; any other list is a batch.
    """
    if isinstance(value, v1.Prompt | str) or (
        value and all(isinstance(item, int) or _is_message(item) for item in value)
    ):
        return [prompt(cast(PromptLike, value))]
    return [prompt(cast(PromptLike, item)) for item in value]


def _is_message(item: object) -> bool:
    pair = isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item)
    return pair or isinstance(item, v1.ChatMessage | Mapping)


def _message(value: Message) -> v1.ChatMessage:
    if isinstance(value, v1.ChatMessage):
        return value
    role, content = (value["role"], value["content"]) if isinstance(value, Mapping) else value
    return v1.ChatMessage(role=role, content=content)


def continuation(value: ContinuationLike) -> v1.Continuation:
    """A continuation from text or token ids."""
    if isinstance(value, v1.Continuation):
        return value
    return v1.Continuation(text=value) if isinstance(value, str) else v1.Continuation(token_ids=v1.TokenIds(ids=value))


def target(
    value: TargetLike | None = None,
    *,
    against: ContinuationLike | None = None,
    follow: ContinuationLike | None = None,
    scale: ScaleName | None = None,
) -> v1.Target | None:
    """What is explained; None leaves the contract's default, the model's most likely next token.

    Args:
        value: one next token, or with `against` the first half of a contrast.
        against: why `value` rather than this?
        follow: a whole continuation, all of whose tokens count.
        scale: log-probability (the default) or probability.
    """
    if isinstance(value, v1.Target):
        if against is not None or follow is not None or scale is not None:
            raise ValueError("a Target message says everything: leave out against, continuation and scale")
        return value
    if value is None and against is None and follow is None and scale is None:
        return None

    built = v1.Target(scale=enum_value(v1.TargetScale, "TARGET_SCALE_", scale))
    if follow is not None:
        if value is not None or against is not None:
            raise ValueError("a target is either one token, a contrast or a continuation")
        built.continuation.CopyFrom(continuation(follow))
    elif against is not None:
        if value is None:
            raise ValueError("a contrast needs both halves: give the target that is preferred as well")
        chosen = continuation([value] if isinstance(value, int) else value)
        built.contrast.CopyFrom(v1.ContrastTarget(chosen=chosen, rejected=continuation(against)))
    elif isinstance(value, str):
        built.next_token.text = value
    elif value is not None:
        built.next_token.id = value
    return built


def features(value: FeaturesLike | None = None, *, within: tuple[int, int] | None = None) -> v1.Features | None:
    """What attributions are given to; None leaves the contract's default, the prompt's words.

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
        built.unit = enum_value(v1.FeatureUnit, "FEATURE_UNIT_", value)
    elif value is not None:
        built.spans.extend(v1.CharacterSpan(start=start, end=end) for start, end in value)
    if within is not None:
        built.within.CopyFrom(v1.CharacterSpan(start=within[0], end=within[1]))
    return built


def removal(value: v1.Removal | RemovalName | None = None, *, replacement: str | None = None) -> v1.Removal | None:
    """What takes a removed feature's place; None leaves the contract's default.

    Args:
        value: a kind of removal.
        replacement: the text that takes the feature's place; a kind of its own.
    """
    if isinstance(value, v1.Removal):
        return value
    if replacement is not None:
        if value is not None:
            raise ValueError("a replacement is a removal of its own: leave out the other")
        return v1.Removal(kind=v1.REMOVAL_KIND_TEXT, text=replacement)
    if value is None:
        return None
    if value not in _REMOVALS:
        raise ValueError(f"removal {value!r} is unknown; choose from {', '.join(_REMOVALS)}, or give a replacement")
    return v1.Removal(kind=_REMOVALS[value])


def spec(
    prompt: v1.Prompt,
    method: MethodLike,
    *,
    model: str = "",
    target: v1.Target | None = None,
    features: v1.Features | None = None,
    removal: v1.Removal | None = None,
    budget: v1.Budget | None = None,
    faithfulness: bool = True,
    precision: PrecisionName | None = None,
    estimator: EstimatorName | None = None,
) -> v1.ExplanationSpec:
    """A whole spec. A part that is None is left to the contract's default."""
    built = v1.ExplanationSpec(
        model=model,
        prompt=prompt,
        target=target,
        features=features,
        removal=removal,
        budget=budget,
        quality=None if faithfulness else v1.Quality(faithfulness=False),
        precision=enum_value(v1.PrecisionPolicy, "PRECISION_POLICY_", precision),
        estimator=enum_value(v1.Estimator, "ESTIMATOR_", estimator),
    )
    if isinstance(method, str):
        field = method.replace("-", "_")
        if field not in _METHODS.values():
            choices = ", ".join(name.replace("_", "-") for name in _METHODS.values())
            raise ValueError(f"method {method!r} is unknown; choose from {choices}")
        getattr(built, field).SetInParent()  # an empty message counts: it chooses the method, with its defaults
    else:
        part = getattr(built, _METHODS[type(method).__name__])
        part.CopyFrom(method)
        part.SetInParent()
    return built


def bias_probe(groups: Mapping[str, Sequence[str]], templates: Sequence[str] = ()) -> v1.BiasProbe:
    """The method that compares groups of words in the slot "{}" of a template, which is the explanation's prompt.

    Args:
        groups: by label, their words; the first words of all groups are compared with each other, and so on.
        templates: more texts with the slot.
    """
    sets = [v1.SwapSet(label=label, words=words) for label, words in groups.items()]
    return v1.BiasProbe(groups=sets, templates=templates)


def resource_name(name: str) -> str:
    """The resource name of an explanation: ``explanations/ID`` from itself or from ``ID``."""
    return name if "/" in name else f"explanations/{name}"


def enum_value(enum: Any, prefix: str, name: str | None) -> Any:
    """The value of `name` ("word") in an enum whose values have a prefix; zero for None."""
    if name is None:
        return 0
    key = prefix + name.upper().replace("-", "_")
    if key not in enum.keys():  # noqa: SIM118 an enum wrapper is no mapping
        choices = (value.removeprefix(prefix).lower().replace("_", "-") for value, number in enum.items() if number)
        raise ValueError(f"{name!r} is unknown; choose from {', '.join(choices)}")
    return enum.Value(key)
