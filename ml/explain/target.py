"""The target: the one number about the model's answer that an explanation explains.

Two steps, as only the second needs the model: `plan` checks a target against the tokenizer, `resolve` fills in what the
model itself decides (its most likely token, its own generation).
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, field

import torch

from ml.errors import InputError, PromptTooLongError
from ml.junction import Junction
from ml.models.base import LanguageModel, ModelInfo
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
class Readout:
    """What to read where: the value of a prompt is Σ log p(tokens) − Σ log p(rejected) after prompt + `given`.

    Attributes:
        given: tokens that follow every prompt and are not measured.
        tokens: the continuation that is measured, at least one token.
        rejected: the token that the first is compared with, or nothing.
        scale: the value itself, or its exponential.
        apart: whether the tokens are others than those of the whole text; see `ml.junction.Junction`.
    """

    tokens: tuple[int, ...]
    scale: Scale = Scale.LOG_PROBABILITY
    given: tuple[int, ...] = ()
    rejected: tuple[int, ...] = ()
    apart: bool = field(default=False, repr=False, compare=False)  # the value does not depend on it

    @property
    def appended(self) -> tuple[int, ...]:
        """The tokens that the model reads after the prompt: all but the last, which it only has to predict."""
        return self.given + self.tokens[:-1]

    @property
    def positions(self) -> int:
        """How many last positions are read out."""
        return len(self.tokens)

    def values(self, logits: torch.Tensor) -> torch.Tensor:
        """The values of some prompts, float64 [prompts], from `logits`, float32 [prompts, positions, vocabulary]."""
        top = logits.detach().amax(-1, keepdim=True)  # it cancels out, in gradients too
        # The sum over the vocabulary is where float32 would lose the last digits.
        totals = (logits - top).exp_().sum(-1, dtype=torch.float64).log_() + top.squeeze(-1)
        tokens = torch.tensor(self.tokens, device=logits.device).view(1, -1, 1).expand(len(logits), -1, 1)
        values = (logits.gather(2, tokens).squeeze(2) - totals).sum(1)
        for token_id in self.rejected:
            values = values - (logits[:, -1, token_id] - totals[:, -1])
        return values.exp() if self.scale is Scale.PROBABILITY else values


@dataclass(frozen=True)
class TargetPlan:
    """A target that the tokenizer has accepted; `readout` is None while the model has a say in it.

    `generate` is how many tokens the model may then say: 1 is its most likely next token.
    """

    scale: Scale
    readout: Readout | None
    generate: int = 0

    @property
    def longest(self) -> int:
        """The most tokens that the model may have to read after a prompt."""
        return self.generate - 1 if self.readout is None else len(self.readout.appended)


def plan(tokenizer: Tokenizer, info: ModelInfo, encoding: Encoding, target: Target) -> TargetPlan:
    """Check a target against the vocabulary and the context.

    Raises:
        InputError: an id outside the vocabulary, or a contrast of equals.
        PromptTooLongError: the target does not fit the context after the prompt.
    """
    planned, field = _plan(tokenizer, info, encoding, target)
    read = len(encoding.ids) + planned.longest
    if read > info.context_length:
        room = info.context_length - len(encoding.ids) + 1  # the last token is only predicted
        message = (
            f"the target has {planned.longest + 1} tokens and this model can answer for {room} after the prompt's"
            f" {len(encoding.ids)}; shorten it"
        )
        raise PromptTooLongError(field, read, info.context_length, message)
    return planned


def _plan(tokenizer: Tokenizer, info: ModelInfo, encoding: Encoding, target: Target) -> tuple[TargetPlan, str]:
    readout: Readout | None = None
    generate = 0
    match target.kind:
        case NextTokenTarget(text=None, id=None):
            field, generate = "target.next_token", 1
        case NextTokenTarget(text=None, id=int(token_id)):
            field = "target.next_token.id"
            if not 0 <= token_id < info.vocabulary_size:
                raise InputError(field, f"must be between 0 and {info.vocabulary_size - 1}, not {token_id}")
            readout = Readout((token_id,), target.scale)
        case NextTokenTarget(text=text):
            field = "target.next_token"
            found = _follow(tokenizer, info, encoding, Continuation(text=text), field)
            readout = Readout(found.ids[:1], target.scale, apart=found.apart)
        case Continuation() as continuation:
            field = "target.continuation"
            found = _follow(tokenizer, info, encoding, continuation, field)
            readout = Readout(found.ids, target.scale, apart=found.apart)
        case GenerationTarget(max_tokens):
            field, generate = "target.generation.max_tokens", max_tokens
        case ContrastTarget(chosen, rejected):
            field = "target.contrast"
            readout = _contrast(
                _follow(tokenizer, info, encoding, chosen, f"{field}.chosen"),
                _follow(tokenizer, info, encoding, rejected, f"{field}.rejected"),
            )
    return TargetPlan(target.scale, readout, generate), field


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


def _contrast(one: Junction, other: Junction) -> Readout:
    chosen, rejected = one.ids, other.ids
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if chosen == rejected:
        raise InputError("target.contrast.rejected", "chosen and rejected are the same tokens; they must differ")
    if shared == min(len(chosen), len(rejected)):
        message = "one of chosen and rejected only continues the other; they must differ in a token that both have"
        raise InputError("target.contrast.rejected", message)
    return Readout(
        chosen[shared : shared + 1],
        given=chosen[:shared],
        rejected=rejected[shared : shared + 1],
        apart=one.apart or other.apart,
    )


def resolve(model: LanguageModel, encoding: Encoding, planned: TargetPlan) -> Generator[None, None, Readout]:
    """Let the model decide what is left open, by greedy generation. Yields after each of its tokens.

    A generation ends before the model's end token, which is not explained unless it is all that the model says.
    """
    if planned.readout is not None:
        return planned.readout
    said: list[int] = []
    while len(said) < planned.generate:
        logits = model.logits([[*encoding.ids, *said]])[0]
        token_id = int(logits[-1].argmax())
        if said and token_id in model.tokenizer.end_ids:
            break
        said.append(token_id)
        if token_id in model.tokenizer.end_ids:
            break
        yield
    return Readout(tuple(said), planned.scale)


def unit(scale: Scale) -> AttributionUnit:
    """The unit of differences between values."""
    return AttributionUnit.PROBABILITY if scale is Scale.PROBABILITY else AttributionUnit.NAT


def describe(tokenizer: Tokenizer, readout: Readout) -> ResolvedTarget:
    """The target for the result: 'log p(" Paris")', 'p(" a" | … " b")', 'log p(" he") − log p(" she")'."""
    name = "p" if readout.scale is Scale.PROBABILITY else "log p"
    condition = f" | … {_quoted(tokenizer, readout.given)}" if readout.given else ""
    description = f"{name}({_quoted(tokenizer, readout.tokens)}{condition})"
    if readout.rejected:
        description += f" − {name}({_quoted(tokenizer, readout.rejected)}{condition})"
    return ResolvedTarget(
        description=description,
        tokens=_tokens(tokenizer, readout.tokens),
        scale=readout.scale,
        rejected_tokens=_tokens(tokenizer, readout.rejected),
        shared_tokens=_tokens(tokenizer, readout.given),
        tokenized_apart=readout.apart,
    )


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
