"""What an explanation is asked to explain, and how: the explainers' own vocabulary, free of torch and of the wire.

The fields and defaults are those of `proto/gloss/v1/explanation_spec.proto`, which documents them for users. Checks
that need no model run in ``__post_init__`` and raise `InputError` with the contract's field path; checks that need the
model's tokens are made by `ml.explain.problem`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from ml.errors import InputError


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """Text, chat messages or token ids: exactly one of the three."""

    text: str | None = None
    chat: tuple[ChatMessage, ...] | None = None
    token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.text, self.chat, self.token_ids)) != 1:
            raise InputError("prompt", "set exactly one of text, chat and token_ids")
        if self.text is not None:
            _check_text("prompt.text", self.text)
        if self.chat is not None:
            if not self.chat:
                raise InputError("prompt.chat.messages", "the conversation is empty; send at least one message")
            for index, message in enumerate(self.chat):
                _check_text(f"prompt.chat.messages[{index}].content", message.content)
        if self.token_ids is not None and not self.token_ids:
            raise InputError("prompt.token_ids.ids", "the list of token ids is empty")


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt: text or token ids, exactly one of the two and not empty."""

    text: str | None = None
    token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.token_ids is None):
            raise InputError("continuation", "set exactly one of text and token_ids")
        if self.text is not None:
            if not self.text:
                raise InputError("continuation.text", "the continuation is empty")
            _check_nul("continuation.text", self.text)
        if self.token_ids is not None and not self.token_ids:
            raise InputError("continuation.token_ids.ids", "the continuation is empty")


class Scale(Enum):
    """Scale of the explained number."""

    LOG_PROBABILITY = "log-probability"
    PROBABILITY = "probability"


@dataclass(frozen=True)
class NextTokenTarget:
    """The next token: a text's first token, an id, or (neither given) the model's most likely one."""

    text: str | None = None
    id: int | None = None

    def __post_init__(self) -> None:
        if self.text is not None and self.id is not None:
            raise InputError("target.next_token", "set text or id, not both")
        if self.text is not None:
            if not self.text:
                raise InputError("target.next_token.text", "the target is empty")
            _check_nul("target.next_token.text", self.text)


@dataclass(frozen=True)
class ContinuationTarget:
    """A given continuation."""

    continuation: Continuation


@dataclass(frozen=True)
class GenerationTarget:
    """The model's own greedy generation."""

    max_tokens: int = 16

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InputError("target.generation.max_tokens", f"must be at least 1, not {self.max_tokens}")


@dataclass(frozen=True)
class ContrastTarget:
    """Why `chosen` rather than `rejected`."""

    chosen: Continuation
    rejected: Continuation


TargetKind = NextTokenTarget | ContinuationTarget | GenerationTarget | ContrastTarget


@dataclass(frozen=True)
class Target:
    """The behaviour that is explained, as one number."""

    kind: TargetKind = field(default_factory=NextTokenTarget)
    scale: Scale = Scale.LOG_PROBABILITY

    def __post_init__(self) -> None:
        if isinstance(self.kind, ContrastTarget) and self.scale is not Scale.LOG_PROBABILITY:
            raise InputError("target.scale", "a contrast is always a difference of log-probabilities")


class Unit(Enum):
    """Units that a prompt is cut into."""

    TOKEN = "token"  # noqa: S105
    WORD = "word"
    SENTENCE = "sentence"


Span = tuple[int, int]
"""A half-open range of characters (Unicode code points) in a text."""


@dataclass(frozen=True)
class Features:
    """What attributions are given to: units of the prompt, or the caller's own `spans`; `within` restricts units."""

    unit: Unit = Unit.WORD
    spans: tuple[Span, ...] = ()
    within: Span | None = None

    def __post_init__(self) -> None:
        end_before = 0
        for index, (start, end) in enumerate(self.spans):
            if not 0 <= start < end:
                raise InputError(f"features.spans[{index}]", f"[{start}, {end}) is empty or negative")
            if start < end_before:
                raise InputError(
                    f"features.spans[{index}]", f"[{start}, {end}) overlaps or precedes the span before it"
                )
            end_before = end
        if self.within is not None and not 0 <= self.within[0] < self.within[1]:
            raise InputError("features.within", f"[{self.within[0]}, {self.within[1]}) is empty or negative")
        if self.within is not None and self.spans:
            raise InputError("features.within", "within restricts units; with spans, leave out the spans instead")


class RemovalKind(Enum):
    """What takes a removed feature's place."""

    MASK_TOKEN = "mask token"  # noqa: S105
    TEXT = "text"
    DELETE = "delete"
    MEAN_EMBEDDING = "mean embedding"


@dataclass(frozen=True)
class Removal:
    """How features are removed; `kind` None means the model's mask or unknown token, else deletion."""

    kind: RemovalKind | None = None
    text: str = ""

    def __post_init__(self) -> None:
        if self.kind is RemovalKind.TEXT:
            if not self.text:
                raise InputError("removal.text", "give the text that replaces a feature, or remove by deletion")
            _check_nul("removal.text", self.text)
        elif self.text:
            raise InputError("removal.text", "a text is used by the removal kind TEXT only")


@dataclass(frozen=True)
class Occlusion:
    """Leave windows of features out."""

    window: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InputError("occlusion.window", f"must be at least 1, not {self.window}")
        if not 1 <= self.stride <= self.window:
            raise InputError("occlusion.stride", f"must be between 1 and the window ({self.window}), not {self.stride}")


class SurrogateKind(Enum):
    """Interpretable models."""

    RIDGE = "ridge"
    LASSO = "lasso"
    DECISION_TREE = "decision tree"


MOST_PENALTY = 1e9
"""Of a surrogate: by far enough to leave nothing of any coefficient."""
KERNEL_WIDTHS = (0.01, 1e6)
"""Of LIME, in hundredths of the cosine distance, which is at most 100: beyond them all samples weigh alike, or none."""


@dataclass(frozen=True)
class Lime:
    """A surrogate fitted around the prompt; `alpha` None is 1 for the ridge and 0.01 for the lasso."""

    surrogate: SurrogateKind = SurrogateKind.RIDGE
    alpha: float | None = None
    kernel_width: float = 25.0
    max_depth: int = 3

    def __post_init__(self) -> None:
        if self.alpha is not None:
            _check_range("lime.alpha", self.alpha, 0, MOST_PENALTY)
        _check_range("lime.kernel_width", self.kernel_width, *KERNEL_WIDTHS)
        if not 1 <= self.max_depth <= 8:
            raise InputError("lime.max_depth", f"must be between 1 and 8, not {self.max_depth}")


@dataclass(frozen=True)
class KernelShap:
    """Shapley values by weighted regression."""


@dataclass(frozen=True)
class ShapleyPermutation:
    """Shapley values by antithetic permutations."""


@dataclass(frozen=True)
class ContextAttribution:
    """A lasso on the logit of the target's probability over random halves of the features."""

    alpha: float = 0.01

    def __post_init__(self) -> None:
        _check_range("context_attribution.alpha", self.alpha, 0, MOST_PENALTY)


@dataclass(frozen=True)
class InputTimesGradient:
    """Gradient of the value times the embedding."""


@dataclass(frozen=True)
class IntegratedGradients:
    """Gradients integrated from the removed prompt to the whole one, at `steps` points."""

    steps: int = 50

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise InputError("integrated_gradients.steps", f"must be between 1 and 1000, not {self.steps}")


@dataclass(frozen=True)
class AttentionRollout:
    """Attention, multiplied over the layers."""


@dataclass(frozen=True)
class ValueZeroing:
    """What a layer's output loses with a token's value vectors, multiplied over the layers."""


@dataclass(frozen=True)
class Interactions:
    """What pairs of features do together."""


FEWEST_PROMPTS = 20
MOST_TEXTS = 4000
"""Of one explanation over many prompts."""
SLOT = "{}"
"""What stands in a template for the word that is swapped."""


@dataclass(frozen=True)
class GlobalSurrogate:
    """A surrogate over many `prompts`, from which words are present to the value."""

    prompts: tuple[str, ...]
    surrogate: SurrogateKind = SurrogateKind.RIDGE
    held_out: float = 0.2
    max_depth: int = 3

    def __post_init__(self) -> None:
        if not FEWEST_PROMPTS <= len(self.prompts) <= MOST_TEXTS:
            allowed = f"send {FEWEST_PROMPTS + 1} to {MOST_TEXTS + 1} prompts"
            message = f"{allowed}, the spec's own among them, not {len(self.prompts) + 1}"
            raise InputError("global_surrogate.prompts", message)
        for index, prompt in enumerate(self.prompts):
            _check_text(f"global_surrogate.prompts[{index}]", prompt)
        if self.surrogate is SurrogateKind.LASSO:
            raise InputError("global_surrogate.surrogate", "choose a ridge or a decision tree")
        if not 0 < self.held_out < 1:
            raise InputError("global_surrogate.held_out", f"must be above 0 and below 1, not {self.held_out}")
        if not 1 <= self.max_depth <= 8:
            raise InputError("global_surrogate.max_depth", f"must be between 1 and 8, not {self.max_depth}")


@dataclass(frozen=True)
class SwapSet:
    """Words that stand for one group."""

    label: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class BiasProbe:
    """Differences between `groups` in the slot of the spec's own prompt and of other `templates`."""

    groups: tuple[SwapSet, ...]
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.groups) < 2:
            raise InputError("bias_probe.groups", f"name at least two groups to compare, not {len(self.groups)}")
        many = len(self.groups[0].words)
        for index, group in enumerate(self.groups):
            path = f"bias_probe.groups[{index}]"
            if not group.label or group.label in {other.label for other in self.groups[:index]}:
                raise InputError(f"{path}.label", "give each group a label of its own")
            if not group.words or len(group.words) != many:
                message = f"has {len(group.words)} words and the first group {many}; groups are compared word by word"
                raise InputError(f"{path}.words", message)
            for place, word in enumerate(group.words):
                _check_text(f"{path}.words[{place}]", word)
        for index, template in enumerate(self.templates):
            check_template(f"bias_probe.templates[{index}]", template)
        texts = (1 + len(self.templates)) * many * len(self.groups)
        if texts > MOST_TEXTS:
            message = f"templates and words make {texts} texts, and at most {MOST_TEXTS} fit; send fewer of them"
            raise InputError("bias_probe.templates", message)


Method = (
    Occlusion
    | Lime
    | KernelShap
    | ShapleyPermutation
    | InputTimesGradient
    | IntegratedGradients
    | AttentionRollout
    | ValueZeroing
    | ContextAttribution
    | Interactions
    | GlobalSurrogate
    | BiasProbe
)


_MEASURES = (1e-9, 1e9)


@dataclass(frozen=True)
class Budget:
    """When to stop. The first limit reached ends the work; None is no limit (or the method's own default)."""

    max_evaluations: int | None = None
    max_seconds: float | None = None
    standard_error: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_evaluations is not None and not 2 <= self.max_evaluations <= 10_000_000:
            raise InputError("budget.max_evaluations", f"must be between 2 and 10,000,000, not {self.max_evaluations}")
        if self.max_seconds is not None:
            _check_range("budget.max_seconds", self.max_seconds, *_MEASURES)
        if self.standard_error is not None:
            _check_range("budget.standard_error", self.standard_error, *_MEASURES)


class Estimator(Enum):
    """How LIME and KernelSHAP sample and make attributions of it; see `ml.explain.lime` and `ml.explain.control`."""

    CONTROL_VARIATES = "control variates"
    TEXTBOOK = "textbook"


class PrecisionPolicy(Enum):
    """What the model computes perturbed prompts in."""

    FLOAT32 = "float32"
    """The reference; or what the model is kept in, where that is less."""
    AUTO = "auto"
    """bfloat16 where that is faster and its error, measured on some of the job's own prompts, is small enough."""


@dataclass(frozen=True)
class ExplanationSpec:
    """One explanation's task. The model is the caller's to choose."""

    prompt: Prompt
    method: Method
    target: Target = field(default_factory=Target)
    features: Features = field(default_factory=Features)
    removal: Removal = field(default_factory=Removal)
    budget: Budget = field(default_factory=Budget)
    faithfulness: bool = True
    precision: PrecisionPolicy = PrecisionPolicy.FLOAT32
    estimator: Estimator = Estimator.CONTROL_VARIATES

    def __post_init__(self) -> None:
        if isinstance(self.method, BiasProbe):
            if self.prompt.text is None:
                raise InputError("prompt", f"a bias probe's prompt is a template: a text with the slot {SLOT}")
            check_template("prompt.text", self.prompt.text)
            if self.features != Features():
                raise InputError("features", "a bias probe's one feature is the word in the slot; leave features out")


def _check_range(path: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # nor is anything that is not a number
        raise InputError(path, f"must be between {least:g} and {most:g}, not {value:g}")


def _check_text(path: str, text: str) -> None:
    if not text or text.isspace():
        raise InputError(path, "the text is empty or blank; send at least one visible character")
    _check_nul(path, text)


def _check_nul(path: str, text: str) -> None:
    if "\0" in text:
        raise InputError(path, f"the text holds a NUL character at position {text.index(chr(0))}; remove it")


def check_template(path: str, template: str) -> None:
    """Raise `InputError` unless the text has the slot, once."""
    _check_text(path, template)
    if template.count(SLOT) != 1:
        raise InputError(path, f"holds the slot {SLOT} {template.count(SLOT)} times; it must stand there once")


def check_ids(path: str, ids: Sequence[int], vocabulary_size: int) -> None:
    """Raise `InputError` at the first id outside the vocabulary."""
    for index, token_id in enumerate(ids):
        if not 0 <= token_id < vocabulary_size:
            raise InputError(f"{path}[{index}]", f"must be between 0 and {vocabulary_size - 1}, not {token_id}")
