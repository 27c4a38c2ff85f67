"""From the models' own words to the contract's."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from gloss import v1 as pb
from ml.attention import AttentionMap, AttentionSpec, Reduction
from ml.errors import InputError
from ml.generation import FinishReason, GenerationSpec, Step
from ml.junction import Junction
from ml.models.base import LanguageModel, ModelInfo
from ml.predict import Prediction, Score
from ml.result import Token

_REDUCTIONS = {
    pb.ATTENTION_REDUCTION_UNSPECIFIED: Reduction.RAW,
    pb.ATTENTION_REDUCTION_RAW: Reduction.RAW,
    pb.ATTENTION_REDUCTION_HEAD_MEAN: Reduction.HEAD_MEAN,
    pb.ATTENTION_REDUCTION_ROLLOUT: Reduction.ROLLOUT,
}
_FINISHES = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.END_OF_TEXT: pb.FINISH_REASON_END_OF_TEXT,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
}
_MOST_STOPS = 16
_HALF = {pb.TENSOR_TYPE_UNSPECIFIED: False, pb.TENSOR_TYPE_FLOAT32: False, pb.TENSOR_TYPE_FLOAT16: True}


def version(info: ModelInfo) -> pb.ModelVersion:
    """Which weights answer."""
    return pb.ModelVersion(name=info.name, digest=info.digest)


def generation_spec(request: pb.GenerateRequest) -> GenerationSpec:
    """How to continue a request's prompt.

    Raises:
        InputError: a field's value is not allowed, whatever the model.
    """
    if len(request.stop) > _MOST_STOPS:
        raise InputError("stop", f"send at most {_MOST_STOPS} texts, not {len(request.stop)}")
    return GenerationSpec(
        max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
        temperature=request.temperature if request.HasField("temperature") else 0.0,
        top_p=request.top_p if request.HasField("top_p") else 1.0,
        seed=request.seed if request.HasField("seed") else secrets.randbits(64),
        stop=tuple(request.stop),
        top_k=request.top_k,
    )


def generated(model: LanguageModel, step: Step) -> pb.GenerateResponse:
    """One more token of a text."""
    return pb.GenerateResponse(
        text=step.text,
        token=_probability(model, step.token_id, step.log_probability),
        top=[_probability(model, token_id, nats) for token_id, nats in step.top],
        finish_reason=_FINISHES[step.finish],
    )


def model_info(model: LanguageModel, *, is_default: bool) -> pb.ModelInfo:
    """What a model is and can do."""
    info, tokenizer = model.info, model.tokenizer
    mask = tokenizer.mask_token
    return pb.ModelInfo(
        version=version(info),
        architecture=info.architecture,
        parameters=info.parameters,
        layers=info.layers,
        heads=info.heads,
        hidden_size=info.hidden_size,
        vocabulary_size=info.vocabulary_size,
        context_length=info.context_length,
        device=info.device,
        dtype=info.dtype,
        has_attention=info.heads > 0,
        has_chat_template=tokenizer.has_chat_template,
        mask_token=mask[1] if mask else "",
        is_default=is_default,
        capabilities=[pb.Capability(name=name, max_tokens=tokens) for name, tokens in info.capabilities],
        unused_capabilities=info.unused,
    )


def tokens(found: Iterable[Token]) -> list[pb.Token]:
    """A prompt's tokens with their places."""
    return [
        pb.Token(id=token.id, text=token.text, span=pb.CharacterSpan(start=token.span[0], end=token.span[1]))
        if token.span
        else pb.Token(id=token.id, text=token.text)
        for token in found
    ]


def probabilities(model: LanguageModel, prediction: Prediction) -> list[pb.TokenProbability]:
    """The most likely tokens."""
    return [
        _probability(model, id_, log_p) for id_, log_p in zip(prediction.ids, prediction.log_probabilities, strict=True)
    ]


def _probability(model: LanguageModel, token_id: int, log_p: float) -> pb.TokenProbability:
    return pb.TokenProbability(
        id=token_id, text=model.tokenizer.token_text(token_id), probability=math.exp(log_p), log_probability=log_p
    )


def score(model: LanguageModel, continuation: Junction, found: Score) -> pb.ContinuationScore:
    """How likely a continuation and each of its tokens is."""
    scored = zip(continuation.ids, found.log_probabilities, found.ranks, strict=True)
    return pb.ContinuationScore(
        tokens=[
            pb.TokenScore(id=id_, text=model.tokenizer.token_text(id_), log_probability=log_p, rank=rank)
            for id_, log_p, rank in scored
        ],
        log_probability=math.fsum(found.log_probabilities),
        tokenized_apart=continuation.apart,
    )


def attention_spec(request: pb.AttentionRequest) -> AttentionSpec:
    """Which weights a request asks for.

    Raises:
        InputError: a reduction or type that this server does not know.
    """
    if request.reduction not in _REDUCTIONS:
        raise InputError("reduction", f"{request.reduction} is not a reduction of attention")
    if request.type not in _HALF:
        raise InputError("type", "must be FLOAT32 or FLOAT16")
    return AttentionSpec(
        layers=tuple(request.layers),
        heads=tuple(request.heads),
        queries=tuple(request.queries),
        reduction=_REDUCTIONS[request.reduction],
        top_n=request.top_n if request.HasField("top_n") else None,
        half=_HALF[request.type],
    )


def write_attention(reply: pb.AttentionResponse, found: AttentionMap) -> None:
    """Put the weights, and the keys that belong to them, into a reply."""
    kind = pb.TENSOR_TYPE_FLOAT16 if found.weights.dtype.itemsize == 2 else pb.TENSOR_TYPE_FLOAT32
    reply.weights.CopyFrom(_tensor(found.weights, kind))
    if found.keys is not None:
        reply.keys.CopyFrom(_tensor(found.keys, pb.TENSOR_TYPE_INT32))


def _tensor(array: npt.NDArray[Any], kind: pb.TensorType) -> pb.Tensor:
    return pb.Tensor(shape=array.shape, type=kind, data=array.tobytes())
