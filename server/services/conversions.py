"""From messages to questions and from answers to messages, as far as no model is needed but its tokenizer.

`server.helpers` runs these functions on the event loop, in a thread or in another process, by how much there is to do.
So they are given nothing but what can be sent, and nothing here may import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gloss import v1 as pb
from ml import explain
from ml.encoding import Encoding
from ml.errors import InputError, PromptTooLongError
from ml.explain.text import passages
from ml.explain.text.passages import TextUnit
from ml.junction import Junction
from ml.models.protocol import ExplainableModel
from ml.prediction import Prediction, Score
from schema.convert import from_tokens, to_continuation, to_prompt, to_question
from server.services import wire
from server.services.fields import blamed_at, read_each


def encoding(model: ExplainableModel, message: pb.Prompt) -> Encoding:
    """A prompt's tokens.

    Raises:
        InputError: as `Tokenizer.encode`.
    """
    return model.tokenizer.encode(to_prompt(message))


def prompt_ids(model: ExplainableModel, request: pb.NextTokenRequest) -> list[tuple[int, ...]]:
    """The tokens of each prompt.

    Raises:
        InputError: as `Tokenizer.encode`; it names the prompt.
    """
    tokenizer = model.tokenizer
    return read_each(
        "prompts", request.prompts, lambda message: tokenizer.prompt_ids(to_prompt(message)), called="prompt"
    )


def scored(model: ExplainableModel, request: pb.ScoreRequest) -> list[Junction]:
    """Each item's prompt and what continues it.

    Raises:
        InputError: as `Tokenizer.encode` and `Tokenizer.continuation`; it names the item.
    """
    return read_each("items", request.items, lambda item: _scored(model, item))


def tokenized(model: ExplainableModel, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
    """How a prompt is cut into tokens, and into the units that are asked for.

    Raises:
        InputError: as `Tokenizer.encode`; there is no such unit.
    """
    unit = _text_unit(request.unit)
    found = encoding(model, request.prompt)
    special = model.tokenizer.special.controls
    return pb.TokenizeResponse(
        units=[] if unit is None else _units(found, unit),
        special_positions=[position for position, token_id in enumerate(found.ids) if token_id in special],
        tokens=from_tokens(model.tokenizer.tokens(found)),
        text=found.text,
        has_start_token=model.tokenizer.has_start(found),
        context_length=model.info.context_length,
        model=wire.version(model.info),
    )


def forecast(model: ExplainableModel, kind: str, question: pb.ExplanationSpec | pb.StudySpec) -> explain.Forecast:
    """What a worker would need to answer a question, which stands in the request's field `kind`.

    Raises:
        GlossError: whatever a worker would raise before its first evaluation.
    """
    with blamed_at(kind):
        return explain.forecast(explain.prepare(model.tokenizer, model.info, to_question(question)))


def next_token_reply(
    model: ExplainableModel, tokens: Sequence[int], predictions: Sequence[Prediction], cached_tokens: Sequence[int]
) -> pb.NextTokenResponse:
    """A reply without timings, to prompts of so many `tokens`, of which so many were cached."""
    reply = pb.NextTokenResponse(model=wire.version(model.info))
    for count, found, cached in zip(tokens, predictions, cached_tokens, strict=True):
        usage = pb.Usage(prompt_tokens=count, cached_tokens=cached)
        wire.write_prediction(reply.predictions.add(), model, found, usage)
    reply.usage.CopyFrom(wire.total(prediction.usage for prediction in reply.predictions))
    return reply


def score_reply(
    model: ExplainableModel, asked: Sequence[Junction], scores: Sequence[Score], cached_tokens: Sequence[int]
) -> pb.ScoreResponse:
    """A reply without timings. Of each prompt so many tokens were cached."""
    reply = pb.ScoreResponse(model=wire.version(model.info))
    for junction, found, cached in zip(asked, scores, cached_tokens, strict=True):
        prompt, completion = len(junction.prompt.ids), len(junction.ids)
        usage = pb.Usage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)
        wire.write_score(reply.scores.add(), model, junction, found, usage)
    reply.usage.CopyFrom(wire.total(score.usage for score in reply.scores))
    return reply


def _text_unit(number: int) -> TextUnit | None:
    if not number:
        return None
    if number not in pb.TextUnit.values():
        raise InputError("unit", f"{number} is not a unit of text")
    return TextUnit[pb.TextUnit.Name(number).removeprefix("TEXT_UNIT_")]


def _units(found: Encoding, unit: TextUnit) -> Iterator[pb.CharacterSpan]:
    """The units of what the user wrote."""
    for start, end in found.editable:
        for first, last in passages.cut(found.text[start:end], unit):
            yield pb.CharacterSpan(start=start + first, end=start + last)


def _scored(model: ExplainableModel, item: pb.ScoreItem) -> Junction:
    found = model.tokenizer.prompt_and_continuation(to_prompt(item.prompt), to_continuation(item.continuation))
    before, limit = len(found.prompt.ids), model.info.context_length
    length = before + len(found.ids)
    if length > limit:
        message = (
            f"the continuation has {len(found.ids)} tokens, and after the prompt's {before} this model"
            f" reads at most {limit - before}; shorten it"
        )
        raise PromptTooLongError("continuation", length, limit, message)
    return found
