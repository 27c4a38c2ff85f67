"""The target: the one number about the model's answer that an explanation explains.

Two steps, as only the second needs the model: `plan` checks a target against the tokenizer, `resolve` fills in what the
model itself decides (its most likely token, its own generation).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

from ml.encoding import Encoding
from ml.errors import InputError, PromptTooLongError
from ml.junction import Junction
from ml.models.objective import Objective, Transform, common_prefix
from ml.models.protocol import ExplainableModel, ModelInfo
from ml.prediction import check_names_tokens
from ml.result import AttributionUnit
from ml.spec import (
    Continuation,
    ContrastTarget,
    GenerationTarget,
    NextTokenTarget,
    Scale,
    Target,
    check_ids,
)
from ml.tokens import Tokenizer


@dataclass(frozen=True)
class TargetTokens:
    """A target in tokens. Its value is Σ log p(tokens) − Σ log p(rejected) after the prompt and `given`.

    Where one side of a contrast is a prefix of the other, the value is the log-odds of the longer side's remaining
    tokens, log p(rest) − log(1 − p(rest)). The rest is in `tokens` if the longer side is the chosen one; otherwise in
    `rejected`, and the value is negated. The other of the two is then empty.

    Attributes:
        tokens: what is measured.
        scale: the value itself, or its exponential.
        given: tokens that follow every prompt and are not measured.
        rejected: what it is compared with; empty without a contrast.
        prefix_contrast: whether one side of a contrast is a prefix of the other.
        rows: parts of `tokens` that have values of their own, as positions there; see `ml.explain.rows`.
        apart, overlap: whether the prompt ends inside a token, and its part of that token; see `ml.junction.Junction`.
        skipped: a mask or unknown token that the model found more likely than the tokens it may generate, if any.
        spaced: tokens with a leading space that are more likely than the first ones of the target's texts; see
            `TargetPlan`.
    """

    tokens: tuple[int, ...]
    scale: Scale = Scale.LOG_PROBABILITY
    given: tuple[int, ...] = ()
    rejected: tuple[int, ...] = ()
    prefix_contrast: bool = False
    rows: tuple[tuple[int, ...], ...] = ()
    # The value does not depend on these.
    apart: bool = field(default=False, repr=False, compare=False)
    overlap: str = field(default="", repr=False, compare=False)
    skipped: tuple[int, ...] = field(default=(), repr=False, compare=False)
    spaced: tuple[int, ...] = field(default=(), repr=False, compare=False)

    @property
    def objective(self) -> Objective:
        """The target as an objective over continuations of the prompt and `given`."""
        sides = [(tokens, weight) for tokens, weight in ((self.tokens, 1.0), (self.rejected, -1.0)) if tokens]
        transform = Transform.PROBABILITY if self.scale is Scale.PROBABILITY else Transform.NONE
        return Objective(
            continuations=tuple(tokens for tokens, _ in sides),
            weights=tuple(weight for _, weight in sides),
            transform=Transform.LOG_ODDS if self.prefix_contrast else transform,
            rows=self.rows,
        )

    @property
    def is_sum_of_rows(self) -> bool:
        """Whether its value is the sum of its rows' values: it is a log-probability, and each token is in one row."""
        shared = sorted(position for row in self.rows for position in row)
        return self.scale is Scale.LOG_PROBABILITY and bool(self.rows) and shared == [*range(len(self.tokens))]

    @property
    def appended(self) -> tuple[int, ...]:
        """The tokens that the model reads after the prompt: all but the last, which it only predicts."""
        return self.given + (self.tokens or self.rejected)[:-1]

    @property
    def positions(self) -> int:
        """How many of the last positions predict what is measured."""
        return len(self.tokens or self.rejected)


@dataclass(frozen=True)
class TargetPlan:
    """A target that was checked against the tokenizer.

    Attributes:
        prompt: what it follows. Where the request's prompt ends inside a token, that token belongs to the target.
        tokens: None where the model decides.
        generate: how many tokens the model may then generate; 1 for its most likely next token.
        spaced: the first token of each of the target's texts, and the first one of the same text with a leading space,
            where neither text nor prompt has one and the two differ: the second is often the one that was meant.
    """

    prompt: Encoding
    scale: Scale
    tokens: TargetTokens | None
    generate: int = 0
    spaced: tuple[tuple[int, int], ...] = ()

    @property
    def longest(self) -> int:
        """The most tokens that the model reads after a prompt."""
        return self.generate - 1 if self.tokens is None else len(self.tokens.appended)


def plan(tokenizer: Tokenizer, info: ModelInfo, encoding: Encoding, target: Target) -> TargetPlan:
    """Check a target against the vocabulary and the context.

    Raises:
        InputError: an id outside the vocabulary, or a contrast of equal sides.
        PromptTooLongError: prompt and target exceed the context.
        OutOfReachError: the model decides about the target, and its engine does not report the tokens it generates.
    """
    planned, field = _plan(tokenizer, info, encoding, target)
    if planned.tokens is None:
        check_names_tokens(info)
    prompt = len(planned.prompt.ids)
    read = prompt + planned.longest
    if read > info.context_length:
        available = info.context_length - prompt + 1  # the last token is only predicted
        message = (
            f"the target has {planned.longest + 1} tokens and this model can answer for {available} after the prompt's"
            f" {prompt}; shorten it"
        )
        raise PromptTooLongError(field, read, info.context_length, message)
    return planned


def _plan(tokenizer: Tokenizer, info: ModelInfo, encoding: Encoding, target: Target) -> tuple[TargetPlan, str]:
    prompt, generate = encoding, 0
    tokens: TargetTokens | None = None
    texts: tuple[str | None, ...] = ()
    match target.kind:
        case NextTokenTarget(text=None, id=None):
            field, generate = "target.next_token", 1
        case NextTokenTarget(text=None, id=int(token_id)):
            field = "target.next_token.id"
            if not 0 <= token_id < info.vocabulary_size:
                raise InputError(field, f"must be between 0 and {info.vocabulary_size - 1}, not {token_id}")
            tokens = TargetTokens((token_id,), target.scale)
        case NextTokenTarget(text=text):
            field, texts = "target.next_token", (text,)
            found = _follow(tokenizer, info, encoding, Continuation(text=text), field)
            prompt, tokens = found.prompt, _target(found, target.scale, count=1)
        case Continuation() as continuation:
            field, texts = "target.continuation", (continuation.text,)
            found = _follow(tokenizer, info, encoding, continuation, field)
            prompt, tokens = found.prompt, _target(found, target.scale)
        case GenerationTarget(max_tokens):
            field, generate = "target.generation.max_tokens", max_tokens
        case ContrastTarget(chosen, rejected):
            field, texts = "target.contrast", (chosen.text, rejected.text)
            prompt, tokens = _contrast(
                _follow(tokenizer, info, encoding, chosen, f"{field}.chosen"),
                _follow(tokenizer, info, encoding, rejected, f"{field}.rejected"),
            )
    pairs = (_spaced(tokenizer, encoding, text) for text in texts if text is not None)
    # Where the prompt ends inside a token of a side, both sides begin with that token.
    different = dict.fromkeys(pair for pair in pairs if pair is not None)  # both sides may begin alike
    spaced = tuple(different) if len(prompt.ids) == len(encoding.ids) else ()
    return TargetPlan(prompt, target.scale, tokens, generate, spaced), field


def _target(found: Junction, scale: Scale, count: int | None = None) -> TargetTokens:
    """The first `count` tokens of a continuation, or all."""
    return TargetTokens(found.ids[:count], scale, apart=found.apart, overlap=found.overlap)


def _spaced(tokenizer: Tokenizer, encoding: Encoding, text: str) -> tuple[int, int] | None:
    """The two tokens of a text, see `TargetPlan.spaced`; None where there is nothing to compare."""
    if text[:1].isspace() or encoding.text[-1:].isspace():
        return None
    try:
        with_space, without = (tokenizer.continuation(encoding, Continuation(text=each)) for each in (f" {text}", text))
    except InputError:  # this vocabulary has no tokens for one of them
        return None
    if with_space.apart or without.apart or not (with_space.ids and without.ids):  # they follow different prompts
        return None
    return None if with_space.ids[0] == without.ids[0] else (without.ids[0], with_space.ids[0])


def _follow(
    tokenizer: Tokenizer, info: ModelInfo, encoding: Encoding, continuation: Continuation, field: str
) -> Junction:
    """The continuation's tokens, with errors that name `field` in place of the tokenizer's ``continuation``."""
    if continuation.token_ids is not None:
        check_ids(f"{field}.token_ids.ids", continuation.token_ids, info.vocabulary_size)
    try:
        found = tokenizer.continuation(encoding, continuation)
    except InputError as error:
        error.field = field + error.field.removeprefix("continuation")
        raise
    if not found.ids:
        raise InputError(field, f"{continuation.text!r} has no tokens in this model")
    return found


def _contrast(one: Junction, other: Junction) -> tuple[Encoding, TargetTokens]:
    """The prompt that both sides have in common, and how they continue it."""
    sides = [side.prompt.ids + side.ids for side in (one, other)]
    if sides[0] == sides[1]:
        raise InputError("target.contrast.rejected", "chosen and rejected are the same tokens; they must differ")
    shared = common_prefix(*sides)
    # A token in which the prompt ends belongs to the continuation, on both sides.
    shorter = min(one, other, key=lambda side: len(side.prompt.ids))
    prompt = shorter.prompt.first(min(shared, len(shorter.prompt.ids)))
    if not prompt.ids:
        raise InputError("target.contrast", "no token precedes both sides; let the prompt end between two words")
    given = sides[0][len(prompt.ids) : shared]
    chosen, rejected = (side[shared:] for side in sides)
    is_prefix = not (chosen and rejected)
    return prompt, TargetTokens(
        chosen if is_prefix else chosen[:1],
        given=given,
        rejected=rejected if is_prefix else rejected[:1],
        prefix_contrast=is_prefix,
        apart=one.apart or other.apart,
        overlap=max(one.overlap, other.overlap, key=len),
    )


def resolve(model: ExplainableModel, encoding: Encoding, planned: TargetPlan) -> Generator[None, None, TargetTokens]:
    """Let the model decide what is left open, by greedy generation. Yields after each token.

    A generation ends before the model's end token, which is not explained unless nothing else is generated. It contains
    no mask and no unknown token: a placeholder for removed features is no text to explain.
    """
    if planned.tokens is not None:
        return replace(planned.tokens, spaced=_likelier(model, encoding.ids, planned.spaced))
    placeholders = model.tokenizer.special.placeholders
    generated: list[int] = []
    skipped: tuple[int, ...] = ()
    for banned in ((), placeholders):  # banned only once one turns up, so that the result can report it
        read = [*encoding.ids, *generated]
        for token_id in model.generate_greedily(read, planned.generate - len(generated), banned=banned):
            if not banned and token_id in placeholders:
                skipped = (token_id,)
                break
            if generated and token_id in model.tokenizer.special.ends:
                return TargetTokens(tuple(generated), planned.scale, skipped=skipped)
            generated.append(token_id)
            yield
        else:
            break
    return TargetTokens(tuple(generated), planned.scale, skipped=skipped)


def _likelier(model: ExplainableModel, ids: Sequence[int], spaced: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The second tokens of those pairs in which it is more likely than the first."""
    if not spaced:
        return ()
    each = [(token_id,) for pair in spaced for token_id in pair]
    (found,) = model.stream_log_probabilities([ids], each, max_tokens=len(ids) + 1)
    without, with_space = found.rows[0][0::2], found.rows[0][1::2]
    return tuple(meant for (_, meant), likelier in zip(spaced, with_space > without, strict=True) if likelier)


def unit(scale: Scale) -> AttributionUnit:
    """The unit of differences between values."""
    return AttributionUnit.PROBABILITY if scale is Scale.PROBABILITY else AttributionUnit.NAT
