"""A target in words: how a result describes it, and the text that its tokens write."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ml.explain.target import TargetTokens
from ml.result import ResolvedTarget, Token
from ml.spec import Scale, Span
from ml.tokens import Tokenizer


def describe(tokenizer: Tokenizer, target: TargetTokens, before: Sequence[int] = ()) -> ResolvedTarget:
    """The target for the result: 'log p(" Paris")', 'p(" a" | … " b")', 'log p(" he") − log p(" she")'.

    `before` are the tokens of the prompt.
    """
    return ResolvedTarget(
        description=_description(tokenizer, target),
        tokens=_tokens(tokenizer, target.tokens),
        scale=target.scale,
        rejected_tokens=_tokens(tokenizer, target.rejected),
        shared_tokens=_tokens(tokenizer, target.given),
        prefix_contrast=target.prefix_contrast,
        skipped_token=next(iter(_tokens(tokenizer, target.skipped)), None),
        tokenized_apart=target.apart,
        overlap=target.overlap,
        text=written(tokenizer, target, before)[0],
    )


def written(tokenizer: Tokenizer, target: TargetTokens, before: Sequence[int]) -> tuple[str, tuple[Span | None, ...]]:
    """The text of `target.tokens` after the request's prompt, and each token's span in it; None for an empty one.

    Where the prompt ends inside the first token, the prompt's part of that token is left out, if the token's text
    contains it (the unknown token's does not).

    Args:
        before: the tokens of the prompt.
    """
    text, spans = tokenizer.written(target.tokens, (*before, *target.given))
    overlap = 0 if target.given else _length_of(target.overlap, text)
    if not overlap:
        return text, spans
    moved = (span and (max(span[0] - overlap, 0), span[1] - overlap) for span in spans)
    return text[overlap:], tuple(span if span and span[0] < span[1] else None for span in moved)


def _length_of(overlap: str, text: str) -> int:
    """How many characters of `text` are the overlap at its start, where a tokenizer may change space and case."""
    if text.startswith(overlap):
        return len(overlap)
    visible, shown = overlap.lstrip(), text.lstrip()
    if shown[: len(visible)].casefold() != visible.casefold():
        return 0
    return len(text) - len(shown) + len(visible)


def _description(tokenizer: Tokenizer, target: TargetTokens) -> str:
    condition = f" | … {_quoted(tokenizer, target.given)}" if target.given else ""
    probabilities = [f"p({_quoted(tokenizer, ids)}{condition})" for ids in (target.tokens, target.rejected) if ids]
    if target.scale is Scale.PROBABILITY:
        return probabilities[0]
    sides = [f"log {each}" for each in probabilities]
    if target.prefix_contrast:
        sides.insert(1 if target.tokens else 0, f"log(1 − {probabilities[0]})")
    return " − ".join(sides)


def _quoted(tokenizer: Tokenizer, ids: tuple[int, ...]) -> str:
    # The text is quoted with its leading space, which `decode` may strip.
    first, text = tokenizer.token_text(ids[0]), tokenizer.decode(ids)
    if len(ids) == 1:
        text = first
    elif first.startswith(" ") and not text.startswith(" "):
        text = f" {text}"
    return json.dumps(text, ensure_ascii=False)


def _tokens(tokenizer: Tokenizer, ids: tuple[int, ...]) -> tuple[Token, ...]:
    return tuple(map(tokenizer.token, ids))
