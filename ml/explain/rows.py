"""Rows: the parts of a target that get attributions of their own, beside those of the whole target.

A forward pass over a perturbed prompt gives the log-probability of each token of the target, given the prompt and the
tokens before it. The target's value sums over all of its tokens, a row's over the row's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ml import spec
from ml.encoding import Encoding
from ml.errors import InputError
from ml.explain.features import MAX_FEATURES, segment
from ml.explain.target import TargetPlan, TargetTokens
from ml.explain.target_text import written
from ml.spec import Features, Span, Unit
from ml.tokens import Tokenizer

MAX_ROWS = MAX_FEATURES


@dataclass(frozen=True)
class Row:
    """A part of the target: its text, its span there (None for a token without text), and its tokens' positions."""

    text: str
    span: Span | None
    positions: tuple[int, ...]


def check(target: spec.Target) -> None:
    """Raise `InputError` where a target has no parts.

    A next token is a single one, and the sides of a contrast are measured against each other.
    """
    if not isinstance(target.kind, spec.Continuation | spec.GenerationTarget):
        raise InputError("rows", "rows are of a continuation or a generation; choose one of these as the target")


def max_rows(tokenizer: Tokenizer, prompt: Encoding, planned: TargetPlan, asked: spec.Rows) -> int:
    """How many rows there will be; an upper bound where the model decides about the target.

    Raises:
        InputError: as `cut`, if the target is known.
    """
    if planned.tokens is not None:
        return len(cut(tokenizer, prompt, planned.tokens, asked))
    return len(asked.spans) or _checked_count(planned.generate)


def cut(tokenizer: Tokenizer, prompt: Encoding, target: TargetTokens, asked: spec.Rows) -> tuple[Row, ...]:
    """Cut a target into rows, in the order of its text.

    Rows of a unit own all tokens: those outside of any unit, such as white space, join the next row, and at the end the
    last. The caller's own spans may leave tokens out.

    Raises:
        InputError: a span is outside of the target's text, or no token begins in it; too many rows.
    """
    text, spans = written(tokenizer, target, prompt.ids)
    unit = asked.unit or Unit.TOKEN
    if not asked.spans and unit is Unit.TOKEN:
        _checked_count(len(spans))
        return tuple(
            Row(tokenizer.token_text(token_id), span, (position,))
            for position, (token_id, span) in enumerate(zip(target.tokens, spans, strict=True))
        )
    encoding = Encoding(text, target.tokens, spans, ((0, len(text)),))
    features = Features(None if asked.spans else unit, asked.spans)
    if not asked.spans and not text.strip():  # there is no unit in it
        return (Row(text, (0, len(text)) if text else None, tuple(range(len(spans)))),)
    found = segment(encoding, features, field="rows", of="target")
    rows = tuple(Row(each.text, each.span, each.positions) for each in found)
    return rows if asked.spans else _with_all_tokens(rows, len(spans))


def _checked_count(rows: int) -> int:
    """`rows`, unless these are too many."""
    if rows > MAX_ROWS:
        raise InputError("rows", f"the target has {rows:,} rows and at most {MAX_ROWS:,} fit; choose larger units")
    return rows


def _with_all_tokens(rows: tuple[Row, ...], tokens: int) -> tuple[Row, ...]:
    """`rows` with the tokens that no row owns: each joins the next row, those at the end the last."""
    ends = [row.positions[-1] + 1 for row in rows[:-1]] + [tokens]
    starts = [0, *ends[:-1]]
    return tuple(
        replace(row, positions=tuple(range(start, end))) for row, start, end in zip(rows, starts, ends, strict=True)
    )
