import builtins as _builtins
from gloss.v1 import common_pb2 as _common_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_END_OF_TEXT: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]

class AttentionReduction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ATTENTION_REDUCTION_UNSPECIFIED: _ClassVar[AttentionReduction]
    ATTENTION_REDUCTION_RAW: _ClassVar[AttentionReduction]
    ATTENTION_REDUCTION_HEAD_MEAN: _ClassVar[AttentionReduction]
    ATTENTION_REDUCTION_ROLLOUT: _ClassVar[AttentionReduction]

class TextUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TEXT_UNIT_UNSPECIFIED: _ClassVar[TextUnit]
    TEXT_UNIT_WORD: _ClassVar[TextUnit]
    TEXT_UNIT_SENTENCE: _ClassVar[TextUnit]
    TEXT_UNIT_ITEM: _ClassVar[TextUnit]
    TEXT_UNIT_LINE: _ClassVar[TextUnit]
    TEXT_UNIT_PARAGRAPH: _ClassVar[TextUnit]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_END_OF_TEXT: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_STOP: FinishReason
ATTENTION_REDUCTION_UNSPECIFIED: AttentionReduction
ATTENTION_REDUCTION_RAW: AttentionReduction
ATTENTION_REDUCTION_HEAD_MEAN: AttentionReduction
ATTENTION_REDUCTION_ROLLOUT: AttentionReduction
TEXT_UNIT_UNSPECIFIED: TextUnit
TEXT_UNIT_WORD: TextUnit
TEXT_UNIT_SENTENCE: TextUnit
TEXT_UNIT_ITEM: TextUnit
TEXT_UNIT_LINE: TextUnit
TEXT_UNIT_PARAGRAPH: TextUnit

class NextTokenRequest(_message.Message):
    __slots__ = ("model", "prompts", "top_k", "temperature")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompts: _containers.RepeatedCompositeFieldContainer[_common_pb2.Prompt]
    top_k: int
    temperature: float
    def __init__(self, model: _Optional[str] = ..., prompts: _Optional[_Iterable[_Union[_common_pb2.Prompt, _Mapping]]] = ..., top_k: _Optional[int] = ..., temperature: _Optional[float] = ...) -> None: ...

class NextTokenResponse(_message.Message):
    __slots__ = ("predictions", "model", "timings", "usage")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[NextTokenPrediction]
    model: _common_pb2.ModelVersion
    timings: _common_pb2.Timings
    usage: _common_pb2.Usage
    def __init__(self, predictions: _Optional[_Iterable[_Union[NextTokenPrediction, _Mapping]]] = ..., model: _Optional[_Union[_common_pb2.ModelVersion, _Mapping]] = ..., timings: _Optional[_Union[_common_pb2.Timings, _Mapping]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ...) -> None: ...

class NextTokenPrediction(_message.Message):
    __slots__ = ("top", "entropy", "usage")
    TOP_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    top: _containers.RepeatedCompositeFieldContainer[_common_pb2.TokenProbability]
    entropy: float
    usage: _common_pb2.Usage
    def __init__(self, top: _Optional[_Iterable[_Union[_common_pb2.TokenProbability, _Mapping]]] = ..., entropy: _Optional[float] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("model", "items", "top_k")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    model: str
    items: _containers.RepeatedCompositeFieldContainer[ScoreItem]
    top_k: int
    def __init__(self, model: _Optional[str] = ..., items: _Optional[_Iterable[_Union[ScoreItem, _Mapping]]] = ..., top_k: _Optional[int] = ...) -> None: ...

class ScoreItem(_message.Message):
    __slots__ = ("prompt", "continuation")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    prompt: _common_pb2.Prompt
    continuation: _common_pb2.Continuation
    def __init__(self, prompt: _Optional[_Union[_common_pb2.Prompt, _Mapping]] = ..., continuation: _Optional[_Union[_common_pb2.Continuation, _Mapping]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("scores", "model", "timings", "usage")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[ContinuationScore]
    model: _common_pb2.ModelVersion
    timings: _common_pb2.Timings
    usage: _common_pb2.Usage
    def __init__(self, scores: _Optional[_Iterable[_Union[ContinuationScore, _Mapping]]] = ..., model: _Optional[_Union[_common_pb2.ModelVersion, _Mapping]] = ..., timings: _Optional[_Union[_common_pb2.Timings, _Mapping]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ...) -> None: ...

class ContinuationScore(_message.Message):
    __slots__ = ("tokens", "log_probability", "tokenized_apart", "usage", "overlap")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TOKENIZED_APART_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[TokenScore]
    log_probability: float
    tokenized_apart: bool
    usage: _common_pb2.Usage
    overlap: str
    def __init__(self, tokens: _Optional[_Iterable[_Union[TokenScore, _Mapping]]] = ..., log_probability: _Optional[float] = ..., tokenized_apart: _Optional[bool] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., overlap: _Optional[str] = ...) -> None: ...

class TokenScore(_message.Message):
    __slots__ = ("id", "text", "bytes", "log_probability", "rank", "top", "entropy")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    bytes: _builtins.bytes
    log_probability: float
    rank: int
    top: _containers.RepeatedCompositeFieldContainer[_common_pb2.TokenProbability]
    entropy: float
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., bytes: _Optional[_builtins.bytes] = ..., log_probability: _Optional[float] = ..., rank: _Optional[int] = ..., top: _Optional[_Iterable[_Union[_common_pb2.TokenProbability, _Mapping]]] = ..., entropy: _Optional[float] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "top_k", "no_placeholders")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    NO_PLACEHOLDERS_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt: _common_pb2.Prompt
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    no_placeholders: bool
    def __init__(self, model: _Optional[str] = ..., prompt: _Optional[_Union[_common_pb2.Prompt, _Mapping]] = ..., max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., no_placeholders: _Optional[bool] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("text", "token", "top", "finish_reason", "model", "timings", "usage")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    text: str
    token: _common_pb2.TokenProbability
    top: _containers.RepeatedCompositeFieldContainer[_common_pb2.TokenProbability]
    finish_reason: FinishReason
    model: _common_pb2.ModelVersion
    timings: _common_pb2.Timings
    usage: _common_pb2.Usage
    def __init__(self, text: _Optional[str] = ..., token: _Optional[_Union[_common_pb2.TokenProbability, _Mapping]] = ..., top: _Optional[_Iterable[_Union[_common_pb2.TokenProbability, _Mapping]]] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., model: _Optional[_Union[_common_pb2.ModelVersion, _Mapping]] = ..., timings: _Optional[_Union[_common_pb2.Timings, _Mapping]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ...) -> None: ...

class AttentionRequest(_message.Message):
    __slots__ = ("model", "prompt", "layers", "heads", "queries", "reduction", "top_n", "type")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    TOP_N_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt: _common_pb2.Prompt
    layers: _containers.RepeatedScalarFieldContainer[int]
    heads: _containers.RepeatedScalarFieldContainer[int]
    queries: _containers.RepeatedScalarFieldContainer[int]
    reduction: AttentionReduction
    top_n: int
    type: _common_pb2.TensorType
    def __init__(self, model: _Optional[str] = ..., prompt: _Optional[_Union[_common_pb2.Prompt, _Mapping]] = ..., layers: _Optional[_Iterable[int]] = ..., heads: _Optional[_Iterable[int]] = ..., queries: _Optional[_Iterable[int]] = ..., reduction: _Optional[_Union[AttentionReduction, str]] = ..., top_n: _Optional[int] = ..., type: _Optional[_Union[_common_pb2.TensorType, str]] = ...) -> None: ...

class AttentionResponse(_message.Message):
    __slots__ = ("tokens", "layers", "heads", "queries", "weights", "keys", "model", "timings", "usage")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[_common_pb2.Token]
    layers: _containers.RepeatedScalarFieldContainer[int]
    heads: _containers.RepeatedScalarFieldContainer[int]
    queries: _containers.RepeatedScalarFieldContainer[int]
    weights: _common_pb2.Tensor
    keys: _common_pb2.Tensor
    model: _common_pb2.ModelVersion
    timings: _common_pb2.Timings
    usage: _common_pb2.Usage
    def __init__(self, tokens: _Optional[_Iterable[_Union[_common_pb2.Token, _Mapping]]] = ..., layers: _Optional[_Iterable[int]] = ..., heads: _Optional[_Iterable[int]] = ..., queries: _Optional[_Iterable[int]] = ..., weights: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., keys: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., model: _Optional[_Union[_common_pb2.ModelVersion, _Mapping]] = ..., timings: _Optional[_Union[_common_pb2.Timings, _Mapping]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ...) -> None: ...

class TokenizeRequest(_message.Message):
    __slots__ = ("model", "prompt", "unit")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt: _common_pb2.Prompt
    unit: TextUnit
    def __init__(self, model: _Optional[str] = ..., prompt: _Optional[_Union[_common_pb2.Prompt, _Mapping]] = ..., unit: _Optional[_Union[TextUnit, str]] = ...) -> None: ...

class TokenizeResponse(_message.Message):
    __slots__ = ("tokens", "text", "context_length", "model", "has_start_token", "units", "special_positions")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HAS_START_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[_common_pb2.Token]
    text: str
    context_length: int
    model: _common_pb2.ModelVersion
    has_start_token: bool
    units: _containers.RepeatedCompositeFieldContainer[_common_pb2.CharacterSpan]
    special_positions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, tokens: _Optional[_Iterable[_Union[_common_pb2.Token, _Mapping]]] = ..., text: _Optional[str] = ..., context_length: _Optional[int] = ..., model: _Optional[_Union[_common_pb2.ModelVersion, _Mapping]] = ..., has_start_token: _Optional[bool] = ..., units: _Optional[_Iterable[_Union[_common_pb2.CharacterSpan, _Mapping]]] = ..., special_positions: _Optional[_Iterable[int]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelInfo]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelInfo, _Mapping]]] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("version", "architecture", "parameter_count", "layer_count", "head_count", "hidden_size", "vocabulary_size", "context_length", "device", "dtype", "has_attention", "has_chat_template", "mask_token", "is_default", "capabilities", "unused_capabilities", "engine", "max_top_k")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAYER_COUNT_FIELD_NUMBER: _ClassVar[int]
    HEAD_COUNT_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    HAS_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    MASK_TOKEN_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    UNUSED_CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_K_FIELD_NUMBER: _ClassVar[int]
    version: _common_pb2.ModelVersion
    architecture: str
    parameter_count: int
    layer_count: int
    head_count: int
    hidden_size: int
    vocabulary_size: int
    context_length: int
    device: str
    dtype: str
    has_attention: bool
    has_chat_template: bool
    mask_token: str
    is_default: bool
    capabilities: _containers.RepeatedCompositeFieldContainer[Capability]
    unused_capabilities: str
    engine: str
    max_top_k: int
    def __init__(self, version: _Optional[_Union[_common_pb2.ModelVersion, _Mapping]] = ..., architecture: _Optional[str] = ..., parameter_count: _Optional[int] = ..., layer_count: _Optional[int] = ..., head_count: _Optional[int] = ..., hidden_size: _Optional[int] = ..., vocabulary_size: _Optional[int] = ..., context_length: _Optional[int] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., has_attention: _Optional[bool] = ..., has_chat_template: _Optional[bool] = ..., mask_token: _Optional[str] = ..., is_default: _Optional[bool] = ..., capabilities: _Optional[_Iterable[_Union[Capability, _Mapping]]] = ..., unused_capabilities: _Optional[str] = ..., engine: _Optional[str] = ..., max_top_k: _Optional[int] = ...) -> None: ...

class Capability(_message.Message):
    __slots__ = ("name", "max_tokens")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_tokens: int
    def __init__(self, name: _Optional[str] = ..., max_tokens: _Optional[int] = ...) -> None: ...
