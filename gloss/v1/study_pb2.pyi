from gloss.v1 import common_pb2 as _common_pb2
from gloss.v1 import explanation_result_pb2 as _explanation_result_pb2
from gloss.v1 import explanation_spec_pb2 as _explanation_spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StudySpec(_message.Message):
    __slots__ = ("model", "target", "budget", "precision", "global_surrogate", "bias_probe")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_SURROGATE_FIELD_NUMBER: _ClassVar[int]
    BIAS_PROBE_FIELD_NUMBER: _ClassVar[int]
    model: str
    target: _explanation_spec_pb2.Target
    budget: _explanation_spec_pb2.Budget
    precision: _explanation_spec_pb2.PrecisionPolicy
    global_surrogate: GlobalSurrogate
    bias_probe: BiasProbe
    def __init__(self, model: _Optional[str] = ..., target: _Optional[_Union[_explanation_spec_pb2.Target, _Mapping]] = ..., budget: _Optional[_Union[_explanation_spec_pb2.Budget, _Mapping]] = ..., precision: _Optional[_Union[_explanation_spec_pb2.PrecisionPolicy, str]] = ..., global_surrogate: _Optional[_Union[GlobalSurrogate, _Mapping]] = ..., bias_probe: _Optional[_Union[BiasProbe, _Mapping]] = ...) -> None: ...

class GlobalSurrogate(_message.Message):
    __slots__ = ("prompts", "surrogate", "held_out", "max_depth")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    SURROGATE_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    prompts: _containers.RepeatedCompositeFieldContainer[_common_pb2.Prompt]
    surrogate: _explanation_spec_pb2.Surrogate
    held_out: float
    max_depth: int
    def __init__(self, prompts: _Optional[_Iterable[_Union[_common_pb2.Prompt, _Mapping]]] = ..., surrogate: _Optional[_Union[_explanation_spec_pb2.Surrogate, str]] = ..., held_out: _Optional[float] = ..., max_depth: _Optional[int] = ...) -> None: ...

class BiasProbe(_message.Message):
    __slots__ = ("templates", "groups")
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    templates: _containers.RepeatedScalarFieldContainer[str]
    groups: _containers.RepeatedCompositeFieldContainer[SwapSet]
    def __init__(self, templates: _Optional[_Iterable[str]] = ..., groups: _Optional[_Iterable[_Union[SwapSet, _Mapping]]] = ...) -> None: ...

class SwapSet(_message.Message):
    __slots__ = ("label", "words")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    label: str
    words: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, label: _Optional[str] = ..., words: _Optional[_Iterable[str]] = ...) -> None: ...

class StudyResult(_message.Message):
    __slots__ = ("target", "global_surrogate", "bias_probe", "trust", "cost", "precision")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_SURROGATE_FIELD_NUMBER: _ClassVar[int]
    BIAS_PROBE_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    target: _explanation_result_pb2.ResolvedTarget
    global_surrogate: GlobalSurrogateResult
    bias_probe: BiasProbeResult
    trust: _explanation_result_pb2.Trust
    cost: _explanation_result_pb2.Cost
    precision: _explanation_result_pb2.Precision
    def __init__(self, target: _Optional[_Union[_explanation_result_pb2.ResolvedTarget, _Mapping]] = ..., global_surrogate: _Optional[_Union[GlobalSurrogateResult, _Mapping]] = ..., bias_probe: _Optional[_Union[BiasProbeResult, _Mapping]] = ..., trust: _Optional[_Union[_explanation_result_pb2.Trust, _Mapping]] = ..., cost: _Optional[_Union[_explanation_result_pb2.Cost, _Mapping]] = ..., precision: _Optional[_Union[_explanation_result_pb2.Precision, _Mapping]] = ...) -> None: ...

class GlobalSurrogateResult(_message.Message):
    __slots__ = ("surrogate", "held_out_r_squared", "coefficients", "coefficient_unit", "fitted_prompts", "held_out_prompts")
    SURROGATE_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_R_SQUARED_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENTS_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENT_UNIT_FIELD_NUMBER: _ClassVar[int]
    FITTED_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    surrogate: _explanation_result_pb2.SurrogateFit
    held_out_r_squared: float
    coefficients: _containers.RepeatedCompositeFieldContainer[WordCoefficient]
    coefficient_unit: _explanation_result_pb2.AttributionUnit
    fitted_prompts: int
    held_out_prompts: int
    def __init__(self, surrogate: _Optional[_Union[_explanation_result_pb2.SurrogateFit, _Mapping]] = ..., held_out_r_squared: _Optional[float] = ..., coefficients: _Optional[_Iterable[_Union[WordCoefficient, _Mapping]]] = ..., coefficient_unit: _Optional[_Union[_explanation_result_pb2.AttributionUnit, str]] = ..., fitted_prompts: _Optional[int] = ..., held_out_prompts: _Optional[int] = ...) -> None: ...

class WordCoefficient(_message.Message):
    __slots__ = ("word", "coefficient", "standard_error")
    WORD_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    word: str
    coefficient: float
    standard_error: float
    def __init__(self, word: _Optional[str] = ..., coefficient: _Optional[float] = ..., standard_error: _Optional[float] = ...) -> None: ...

class BiasProbeResult(_message.Message):
    __slots__ = ("differences",)
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    differences: _containers.RepeatedCompositeFieldContainer[GroupDifference]
    def __init__(self, differences: _Optional[_Iterable[_Union[GroupDifference, _Mapping]]] = ...) -> None: ...

class GroupDifference(_message.Message):
    __slots__ = ("first", "second", "difference", "pairs", "standard_error", "interval")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    first: str
    second: str
    difference: float
    pairs: int
    standard_error: float
    interval: _explanation_result_pb2.Interval
    def __init__(self, first: _Optional[str] = ..., second: _Optional[str] = ..., difference: _Optional[float] = ..., pairs: _Optional[int] = ..., standard_error: _Optional[float] = ..., interval: _Optional[_Union[_explanation_result_pb2.Interval, _Mapping]] = ...) -> None: ...
