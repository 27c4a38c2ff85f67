"""Convert what models compute to the contract's messages, and the requests' options to dataclasses."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable
from typing import Any, TypedDict

import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration

from gloss import v1 as pb
from ml.attention import AttentionMap, AttentionSpec, Reduction
from ml.errors import InputError
from ml.generation import FinishReason, GenerationSpec, Step
from ml.junction import Junction
from ml.models.protocol import ExplainableModel, ModelInfo
from ml.prediction import Prediction, Score, max_top_k

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
_MAX_STOPS = 16
_NANOSECONDS = 1_000_000_000
_HALF = {pb.TENSOR_TYPE_UNSPECIFIED: False, pb.TENSOR_TYPE_FLOAT32: False, pb.TENSOR_TYPE_FLOAT16: True}


def version(info: ModelInfo) -> pb.ModelVersion:
    """Which weights answer."""
    return pb.ModelVersion(name=info.name, digest=info.digest)


def generation_spec(request: pb.GenerateRequest) -> GenerationSpec:
    """How to continue a request's prompt.

    Raises:
        InputError: a field's value is not allowed, whatever the model.
    """
    if len(request.stop) > _MAX_STOPS:
        raise InputError("stop", f"send at most {_MAX_STOPS} texts, not {len(request.stop)}")
    fields = ("max_tokens", "temperature", "top_p", "seed", "top_k")
    given: dict[str, Any] = {name: getattr(request, name) for name in fields if request.HasField(name)}
    given |= {"stop": tuple(request.stop), "no_placeholders": request.no_placeholders}
    return GenerationSpec(**{"seed": secrets.randbits(64), **given})


def write_duration(message: Duration, seconds: float) -> None:
    """Write a length of time, to the nanosecond."""
    message.seconds, message.nanos = divmod(round(_NANOSECONDS * seconds), _NANOSECONDS)


def total(usages: Iterable[pb.Usage]) -> pb.Usage:
    """The usage of all prompts of a call."""
    found = pb.Usage()
    for usage in usages:
        found.prompt_tokens += usage.prompt_tokens
        found.cached_tokens += usage.cached_tokens
        found.completion_tokens += usage.completion_tokens
    return found


def generated(model: ExplainableModel, step: Step) -> pb.GenerateResponse:
    """One more token of a text."""
    reply = pb.GenerateResponse(text=step.text, finish_reason=_FINISHES[step.finish])
    token, nats = _shown(model, step.token_id), step.log_probability
    reply.token.CopyFrom(pb.TokenProbability(**token, probability=math.exp(nats), log_probability=nats))
    _write_top(reply, model, step.top)
    return reply


def model_info(model: ExplainableModel, *, is_default: bool) -> pb.ModelInfo:
    """What a model is and can do."""
    info, tokenizer = model.info, model.tokenizer
    _, mask_token = tokenizer.mask_token or (None, None)
    return pb.ModelInfo(
        version=version(info),
        architecture=info.architecture,
        parameter_count=info.parameters,
        layer_count=info.layers,
        head_count=info.heads,
        hidden_size=info.hidden_size,
        vocabulary_size=info.vocabulary_size,
        context_length=info.context_length,
        device=info.device,
        dtype=info.dtype,
        has_attention=info.heads > 0,
        has_chat_template=tokenizer.has_chat_template,
        mask_token=mask_token,
        is_default=is_default,
        capabilities=[pb.Capability(name=name, max_tokens=tokens) for name, tokens in info.capabilities],
        unused_capabilities=info.unused,
        engine=info.engine,
        max_top_k=max_top_k(info),
    )


# A message that becomes part of another one is copied, so those of long lists are written where they are to stand.


def write_prediction(
    message: pb.NextTokenPrediction, model: ExplainableModel, found: Prediction, usage: pb.Usage
) -> None:
    """Write the most likely tokens after a prompt."""
    if found.entropy is not None:
        message.entropy = found.entropy
    message.usage.CopyFrom(usage)
    _write_top(message, model, zip(found.ids, found.log_probabilities, strict=True))


def write_score(
    message: pb.ContinuationScore, model: ExplainableModel, continuation: Junction, found: Score, usage: pb.Usage
) -> None:
    """Write how likely a continuation and each of its tokens is."""
    message.log_probability = math.fsum(found.log_probabilities)
    message.tokenized_apart = continuation.apart
    message.overlap = continuation.overlap
    message.usage.CopyFrom(usage)
    for token_id, nats, rank in zip(continuation.ids, found.log_probabilities, found.ranks, strict=True):
        message.tokens.add(**_shown(model, token_id), log_probability=nats, rank=rank)
    for token, alternatives in zip(message.tokens, found.predictions, strict=bool(found.predictions)):
        if alternatives.entropy is not None:
            token.entropy = alternatives.entropy
        _write_top(token, model, zip(alternatives.ids, alternatives.log_probabilities, strict=True))


class _Shown(TypedDict):
    """The fields that say which token it is, in every message of one."""

    id: int
    text: str
    bytes: bytes


def _shown(model: ExplainableModel, token_id: int) -> _Shown:
    tokenizer = model.tokenizer
    return {"id": token_id, "text": tokenizer.token_text(token_id), "bytes": tokenizer.token_bytes(token_id)}


def _write_top(
    message: pb.NextTokenPrediction | pb.TokenScore | pb.GenerateResponse,
    model: ExplainableModel,
    tokens: Iterable[tuple[int, float]],
) -> None:
    """Write the most likely tokens, each with its log-probability."""
    text, written = model.tokenizer.token_text, model.tokenizer.token_bytes
    for token_id, nats in tokens:
        message.top.add(
            id=token_id,
            text=text(token_id),
            bytes=written(token_id),
            probability=math.exp(nats),
            log_probability=nats,
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
