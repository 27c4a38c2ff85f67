"""The errors that a caller of `ml` can cause, as one small tree.

GlossError
├── InputError                 what was asked is not allowed; `field` names the part
│   ├── LayersError            some layers have no attention
│   ├── PromptTooLongError     more tokens than the model's context, with what is to follow
│   └── ReplyTooLargeError     the answer would exceed the caller's limit; nothing was computed
├── CapabilityError            this model cannot do that
│   ├── NoAttentionError
│   ├── MixedLayersError       some of its layers have no attention, and all are needed
│   ├── OutOfReachError        an external engine computes it, and does not give what was asked for
│   └── NoChatTemplateError
├── EngineError                an external engine gave no answer that could be used
│   ├── EngineUnavailableError it is away, overloaded or too slow; trying later may help
│   └── EngineModelChangedError it computes another model than when it was first asked
└── ModelLoadError             the model's folder is missing, incomplete, corrupt or not allowed
    └── ModelTooLargeError     its weights exceed the memory that there is
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class GlossError(Exception):
    """Root of the tree. Its message is written for the person who caused the error and says what to do."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be pickled, whatever arguments its class takes."""
        return _restored, (type(self), self.args, self.__dict__)


class InputError(GlossError):
    """What was asked is not allowed.

    `field` is a path in the words of the public contract, relative to the request or spec: ``prompt.text``, ``layers``,
    ``features.spans[2]``. An outer layer may prepend where the part sits.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class LayersError(InputError):
    """Some `layers` of those that were asked for have no attention."""

    def __init__(self, layers: Iterable[int]) -> None:
        self.layers = tuple(sorted(layers))
        names = ", ".join(map(str, self.layers))
        super().__init__("layers", f"layers without attention in this model: {names}; leave them out")


class PromptTooLongError(InputError):
    """`tokens` tokens do not fit a context of `limit` tokens: a prompt, or it and what is to follow it.

    Where not the prompt itself is too long, `message` says what is.
    """

    def __init__(self, field: str, tokens: int, limit: int, message: str = "") -> None:
        alone = f"the prompt has {tokens} tokens and this model reads at most {limit}; shorten it"
        super().__init__(field, message or alone)
        self.tokens = tokens
        self.limit = limit


class ReplyTooLargeError(InputError):
    """A reply of `size` bytes exceeds the limit of `limit` bytes; `advice` says what to ask for instead."""

    def __init__(
        self,
        field: str,
        size: int,
        limit: int,
        advice: str = "ask for fewer layers, heads or queries, a reduction, float16, or top_n",
    ) -> None:
        super().__init__(field, f"the reply would be {size} bytes and the limit is {limit}; {advice}")
        self.size = size
        self.limit = limit


class CapabilityError(GlossError):
    """This model cannot do what was asked; another model may."""

    def __init__(self, model: str, message: str) -> None:
        super().__init__(message)
        self.model = model


class NoAttentionError(CapabilityError):
    """The model has no attention weights."""

    def __init__(self, model: str) -> None:
        super().__init__(model, f"model {model!r} has no attention; ask a transformer")


class MixedLayersError(CapabilityError):
    """Some `layers` of the model have no attention, and what was asked for follows it through all of them."""

    def __init__(self, model: str, layers: Iterable[int]) -> None:
        self.layers = tuple(sorted(layers))
        names = ", ".join(map(str, self.layers))
        super().__init__(
            model,
            f"model {model!r} has layers without attention ({names}), through which no token can be followed; choose "
            "another method",
        )


class OutOfReachError(CapabilityError):
    """An external engine computes the model, and does not give what was asked for.

    `what` goes on after "which", and `instead` says what would work.
    """

    def __init__(self, model: str, engine: str, what: str, instead: str) -> None:
        super().__init__(model, f"model {model!r} is served by {engine}, which {what}; {instead}")
        self.engine = engine


class NoChatTemplateError(CapabilityError):
    """The model has no chat template."""

    def __init__(self, model: str) -> None:
        super().__init__(model, f"model {model!r} has no chat template; send the prompt as text")


class EngineError(GlossError):
    """The engine that computes `model` gave no answer that could be used."""

    def __init__(self, model: str, message: str) -> None:
        super().__init__(message)
        self.model = model


class EngineUnavailableError(EngineError):
    """The engine is away, overloaded or too slow; trying again after `retry_seconds` may help."""

    def __init__(self, model: str, message: str, retry_seconds: float) -> None:
        super().__init__(model, message)
        self.retry_seconds = retry_seconds


class EngineModelChangedError(EngineError):
    """The engine computes another model under the name of `model` than when it was first asked.

    `difference` is how far its log-probabilities are from those of then, and `tolerance` how far they may be.
    """

    def __init__(self, model: str, difference: float, tolerance: float) -> None:
        super().__init__(
            model,
            f"what is served as {model!r} has changed: its log-probabilities of fixed prompts are {difference:.2g} nats"
            f" from those at the start, and {tolerance:.2g} would be its own noise; restart Gloss for the new model",
        )
        self.difference = difference
        self.tolerance = tolerance


class ModelLoadError(GlossError):
    """The model cannot be loaded."""


class ModelTooLargeError(ModelLoadError):
    """The weights of `model` take `needed` bytes and `available` are there; nothing was loaded."""

    def __init__(self, model: str, needed: int, available: int, dtype: str, where: str) -> None:
        super().__init__(
            f"the weights of {model!r} take {_size(needed)} in {dtype} and {_size(available)} are available {where}; "
            "free or add memory, choose a smaller model, or spread it over several GPUs (GLOSS_DEVICE=balanced, "
            "GLOSS_TENSOR_PARALLEL)"
        )
        self.model = model
        self.needed = needed
        self.available = available


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _restored(kind: type[GlossError], arguments: tuple[Any, ...], state: dict[str, Any]) -> GlossError:
    error: GlossError = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error
