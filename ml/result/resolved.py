"""What was asked, with nothing left open, and the tokens that describe it."""

from __future__ import annotations

import builtins
from dataclasses import dataclass

from ml.spec import RemovalKind, Scale, Span


@dataclass(frozen=True)
class Token:
    """A token in its text.

    Attributes:
        text: as a reader sees it; see `ml.tokens.Tokenizer.token_text`.
        span: None for a token that stands nowhere in the text.
        bytes: what it writes, in UTF-8; see `ml.tokens.Tokenizer.token_bytes`.
    """

    id: int
    text: str
    span: Span | None = None
    bytes: builtins.bytes = b""


@dataclass(frozen=True)
class ResolvedTarget:
    """The target with nothing left open.

    Attributes:
        prefix_contrast: whether one side of a contrast continues the other. The value is then the log-odds of going on
            with the rest, after `shared_tokens`, and the rest is in `tokens`; or it is their negative where the shorter
            side is the chosen one, and the rest is in `rejected_tokens`.
        skipped_token: the mask or unknown token that was more likely than what the model was let choose, if any.
        tokenized_apart: whether the prompt has other tokens before the target than alone; see `ml.junction.Junction`.
        overlap: the end of the prompt's text with which the target's first token begins.
        text: of `tokens` as it follows the prompt, so without `overlap`; the spans of rows count in it.
    """

    description: str
    tokens: tuple[Token, ...]
    scale: Scale
    rejected_tokens: tuple[Token, ...] = ()
    shared_tokens: tuple[Token, ...] = ()
    prefix_contrast: bool = False
    skipped_token: Token | None = None
    tokenized_apart: bool = False
    overlap: str = ""
    text: str = ""


@dataclass(frozen=True)
class SimilarWords:
    """The words that replaced a feature, the most similar first; none if it was deleted."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class ResolvedRemoval:
    """The removal with nothing left open.

    Attributes:
        replacement: the mask token or the text that replaced the features.
        similar: an entry for each feature if similar words replaced them.
    """

    kind: RemovalKind
    replacement: str = ""
    similar: tuple[SimilarWords, ...] = ()
