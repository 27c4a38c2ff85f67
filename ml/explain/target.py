"""The target: the one number about the model's answer that an explanation explains.

Two steps, as only the second needs the model: `plan` checks a target against the tokenizer, `resolve` fills in what the
model itself decides (its most likely token, its own generation).
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, field

from ml.errors import InputError, PromptTooLongError
from ml.junction import Junction
from ml.models.objective import Objective, Transform, common_prefix
from ml.models.protocol import ExplainableModel, ModelInfo
from ml.result import AttributionUnit, ResolvedTarget, Token
from ml.spec import (
    Continuation,
    ContrastTarget,
    GenerationTarget,
    NextTokenTarget,
    Scale,
    Target,
    check_ids,
)
from ml.tokens import Encoding, Tokenizer


@dataclass(frozen=True)
class TargetTokens:
    """A target in tokens. Its value is Σ log p(tokens) − Σ log p(rejected) after the prompt and `given`.

    Where one side of a contrast continues the other, there is a rest by which the longer one goes on, and the value is
    the log-odds of going on, log p(rest) − log(1 − p(rest)). The rest is in `tokens` where the longer side is the
    chosen one; otherwise it is in `rejected`, and the value is the negative. The other of the two is then empty.

    Attributes:
        tokens: what is measured.
        scale: the value itself, or its exponential.
        given: tokens that follow every prompt and are not measured.
        rejected: what is compared with it; empty without a contrast.
        prefix_contrast: whether one side of a contrast continues the other.
        apart: whether the tokens are others than those of the whole text; see `ml.junction.Junction`.
    """

    tokens: tuple[int, ...]
    scale: Scale = Scale.LOG_PROBABILITY
    given: tuple[int, ...] = ()
    rejected: tuple[int, ...] = ()
    prefix_contrast: bool = False
    apart: bool = field(default=False, repr=False, compare=False)  # the value does not depend on it

    @property
    def objective(self) -> Objective:
        """The value as a number about what follows the prompt and `given`."""
        sides = [(tokens, weight) for tokens, weight in ((self.tokens, 1.0), (self.rejected, -1.0)) if tokens]
        transform = Transform.PROBABILITY if self.scale is Scale.PROBABILITY else Transform.NONE
        return Objective(
            continuations=tuple(tokens for tokens, _ in sides),
            weights=tuple(weight for _, weight in sides),
            transform=Transform.LOG_ODDS if self.prefix_contrast else transform,
        )

    @property
    def appended(self) -> tuple[int, ...]:
        """The tokens that the model reads after the prompt: all but the last, which it only has to predict."""
        return self.given + (self.tokens or self.rejected)[:-1]

    @property
    def positions(self) -> int:
        """How many last positions predict what is measured."""
        return len(self.tokens or self.rejected)


@dataclass(frozen=True)
class TargetPlan:
    """A target that the tokenizer has accepted; `tokens` is None while the model has a say in it.

    `generate` is how many tokens the model may then generate: 1 is its most likely next token.
    """

    scale: Scale
    tokens: TargetTokens | None
    generate: int = 0

    @property
    def longest(self) -> int:
        """The most tokens that the model may have to read after a prompt."""
        return self.generate - 1 if self.tokens is None else len(self.tokens.appended)


def plan(tokenizer: Tokenizer, info: ModelInfo, encoding: Encoding, target: Target) -> TargetPlan:
    """Check a target against the vocabulary and the context.

    Raises:
        InputError: an id outside the vocabulary, or a contrast of equals.
        PromptTooLongError: the target does not fit the context after the prompt.
    """
    planned, field = _plan(tokenizer, info, encoding, target)
    read = len(encoding.ids) + planned.longest
    if read > info.context_length:
        available = info.context_length - len(encoding.ids) + 1  # the last token is only predicted
        message = (
            f"the target has {planned.longest + 1} tokens and this model can answer for {available} after the prompt's"
            f" {len(encoding.ids)}; shorten it"
        )
        raise PromptTooLongError(field, read, info.context_length, message)
    return planned


def _plan(tokenizer: Tokenizer, info: ModelInfo, encoding: Encoding, target: Target) -> tuple[TargetPlan, str]:
    tokens: TargetTokens | None = None
    generate = 0
    match target.kind:
        case NextTokenTarget(text=None, id=None):
            field, generate = "target.next_token", 1
        case NextTokenTarget(text=None, id=int(token_id)):
            field = "target.next_token.id"
            if not 0 <= token_id < info.vocabulary_size:
                raise InputError(field, f"must be between 0 and {info.vocabulary_size - 1}, not {token_id}")
            tokens = TargetTokens((token_id,), target.scale)
        case NextTokenTarget(text=text):
            field = "target.next_token"
            found = _follow(tokenizer, info, encoding, Continuation(text=text), field)
            tokens = TargetTokens(found.ids[:1], target.scale, apart=found.apart)
        case Continuation() as continuation:
            field = "target.continuation"
            found = _follow(tokenizer, info, encoding, continuation, field)
            tokens = TargetTokens(found.ids, target.scale, apart=found.apart)
        case GenerationTarget(max_tokens):
            field, generate = "target.generation.max_tokens", max_tokens
        case ContrastTarget(chosen, rejected):
            field = "target.contrast"
            tokens = _contrast(
                _follow(tokenizer, info, encoding, chosen, f"{field}.chosen"),
                _follow(tokenizer, info, encoding, rejected, f"{field}.rejected"),
            )
    return TargetPlan(target.scale, tokens, generate), field


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


def _contrast(one: Junction, other: Junction) -> TargetTokens:
    chosen, rejected = one.ids, other.ids
    if chosen == rejected:
        raise InputError("target.contrast.rejected", "chosen and rejected are the same tokens; they must differ")
    shared = common_prefix(chosen, rejected)
    given, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    apart = one.apart or other.apart
    if not (chosen and rejected):
        return TargetTokens(chosen, given=given, rejected=rejected, prefix_contrast=True, apart=apart)
    return TargetTokens(chosen[:1], given=given, rejected=rejected[:1], apart=apart)


def resolve(model: ExplainableModel, encoding: Encoding, planned: TargetPlan) -> Generator[None, None, TargetTokens]:
    """Let the model decide what is left open, by greedy generation. Yields after each of its tokens.

    A generation ends before the model's end token, which is not explained unless it is all that is generated.
    """
    if planned.tokens is not None:
        return planned.tokens
    generated: list[int] = []
    for token_id in model.generate_greedily(encoding.ids, planned.generate):
        if generated and token_id in model.tokenizer.end_ids:
            break
        generated.append(token_id)
        yield
    return TargetTokens(tuple(generated), planned.scale)


def unit(scale: Scale) -> AttributionUnit:
    """The unit of differences between values."""
    return AttributionUnit.PROBABILITY if scale is Scale.PROBABILITY else AttributionUnit.NAT


def describe(tokenizer: Tokenizer, target: TargetTokens) -> ResolvedTarget:
    """The target for the result: 'log p(" Paris")', 'p(" a" | … " b")', 'log p(" he") − log p(" she")'."""
    return ResolvedTarget(
        description=_description(tokenizer, target),
        tokens=_tokens(tokenizer, target.tokens),
        scale=target.scale,
        rejected_tokens=_tokens(tokenizer, target.rejected),
        shared_tokens=_tokens(tokenizer, target.given),
        prefix_contrast=target.prefix_contrast,
        tokenized_apart=target.apart,
    )


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
    # The text is shown as it stands in running text, with its leading space, which `decode` may strip.
    first, text = tokenizer.token_text(ids[0]), tokenizer.decode(ids)
    if len(ids) == 1:
        text = first
    elif first.startswith(" ") and not text.startswith(" "):
        text = f" {text}"
    return json.dumps(text, ensure_ascii=False)


def _tokens(tokenizer: Tokenizer, ids: tuple[int, ...]) -> tuple[Token, ...]:
    return tuple(map(tokenizer.token, ids))
