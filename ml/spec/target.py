"""Which behaviour of the model is explained, as one number."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from ml.errors import InputError
from ml.spec.checks import Checked, Range, check_nul
from ml.spec.prompt import Continuation


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
            raise InputError("", "set text or id, not both")
        if self.text is not None:
            if not self.text:
                raise InputError("text", "the target is empty")
            check_nul("text", self.text)


@dataclass(frozen=True)
class GenerationTarget(Checked):
    """The model's own greedy generation."""

    max_tokens: Annotated[int, Range(1)] = 16


@dataclass(frozen=True)
class ContrastTarget:
    """Why `chosen` rather than `rejected`."""

    chosen: Continuation
    rejected: Continuation


TargetKind = NextTokenTarget | Continuation | GenerationTarget | ContrastTarget
"""A `Continuation` is explained as the sum of its tokens' log-probabilities."""


@dataclass(frozen=True)
class Target:
    """The behaviour that is explained, as one number."""

    kind: TargetKind = field(default_factory=NextTokenTarget)
    scale: Scale = Scale.LOG_PROBABILITY

    def __post_init__(self) -> None:
        if isinstance(self.kind, ContrastTarget) and self.scale is not Scale.LOG_PROBABILITY:
            raise InputError("scale", "a contrast is always a difference of log-probabilities")
