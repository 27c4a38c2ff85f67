import datetime

from gloss.v1 import common_pb2 as _common_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TargetScale(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TARGET_SCALE_UNSPECIFIED: _ClassVar[TargetScale]
    TARGET_SCALE_LOG_PROBABILITY: _ClassVar[TargetScale]
    TARGET_SCALE_PROBABILITY: _ClassVar[TargetScale]

class FeatureUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEATURE_UNIT_UNSPECIFIED: _ClassVar[FeatureUnit]
    FEATURE_UNIT_TOKEN: _ClassVar[FeatureUnit]
    FEATURE_UNIT_WORD: _ClassVar[FeatureUnit]
    FEATURE_UNIT_SENTENCE: _ClassVar[FeatureUnit]

class RemovalKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REMOVAL_KIND_UNSPECIFIED: _ClassVar[RemovalKind]
    REMOVAL_KIND_MASK_TOKEN: _ClassVar[RemovalKind]
    REMOVAL_KIND_TEXT: _ClassVar[RemovalKind]
    REMOVAL_KIND_DELETE: _ClassVar[RemovalKind]
    REMOVAL_KIND_MEAN_EMBEDDING: _ClassVar[RemovalKind]
    REMOVAL_KIND_TEXT_AND_DELETE: _ClassVar[RemovalKind]
    REMOVAL_KIND_SIMILAR: _ClassVar[RemovalKind]
    REMOVAL_KIND_SIMILAR_SLOPES: _ClassVar[RemovalKind]

class Estimator(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ESTIMATOR_UNSPECIFIED: _ClassVar[Estimator]
    ESTIMATOR_CONTROL_VARIATES: _ClassVar[Estimator]
    ESTIMATOR_TEXTBOOK: _ClassVar[Estimator]

class Surrogate(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SURROGATE_UNSPECIFIED: _ClassVar[Surrogate]
    SURROGATE_RIDGE: _ClassVar[Surrogate]
    SURROGATE_LASSO: _ClassVar[Surrogate]
    SURROGATE_DECISION_TREE: _ClassVar[Surrogate]

class NodeValue(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_VALUE_UNSPECIFIED: _ClassVar[NodeValue]
    NODE_VALUE_REMOVAL: _ClassVar[NodeValue]
    NODE_VALUE_OWEN: _ClassVar[NodeValue]

class PrecisionPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_POLICY_UNSPECIFIED: _ClassVar[PrecisionPolicy]
    PRECISION_POLICY_FLOAT32: _ClassVar[PrecisionPolicy]
    PRECISION_POLICY_AUTO: _ClassVar[PrecisionPolicy]
TARGET_SCALE_UNSPECIFIED: TargetScale
TARGET_SCALE_LOG_PROBABILITY: TargetScale
TARGET_SCALE_PROBABILITY: TargetScale
FEATURE_UNIT_UNSPECIFIED: FeatureUnit
FEATURE_UNIT_TOKEN: FeatureUnit
FEATURE_UNIT_WORD: FeatureUnit
FEATURE_UNIT_SENTENCE: FeatureUnit
REMOVAL_KIND_UNSPECIFIED: RemovalKind
REMOVAL_KIND_MASK_TOKEN: RemovalKind
REMOVAL_KIND_TEXT: RemovalKind
REMOVAL_KIND_DELETE: RemovalKind
REMOVAL_KIND_MEAN_EMBEDDING: RemovalKind
REMOVAL_KIND_TEXT_AND_DELETE: RemovalKind
REMOVAL_KIND_SIMILAR: RemovalKind
REMOVAL_KIND_SIMILAR_SLOPES: RemovalKind
ESTIMATOR_UNSPECIFIED: Estimator
ESTIMATOR_CONTROL_VARIATES: Estimator
ESTIMATOR_TEXTBOOK: Estimator
SURROGATE_UNSPECIFIED: Surrogate
SURROGATE_RIDGE: Surrogate
SURROGATE_LASSO: Surrogate
SURROGATE_DECISION_TREE: Surrogate
NODE_VALUE_UNSPECIFIED: NodeValue
NODE_VALUE_REMOVAL: NodeValue
NODE_VALUE_OWEN: NodeValue
PRECISION_POLICY_UNSPECIFIED: PrecisionPolicy
PRECISION_POLICY_FLOAT32: PrecisionPolicy
PRECISION_POLICY_AUTO: PrecisionPolicy

class ExplanationSpec(_message.Message):
    __slots__ = ("model", "prompt", "target", "features", "removal", "budget", "quality", "precision", "rows", "occlusion", "lime", "kernel_shap", "shapley_permutation", "input_times_gradient", "integrated_gradients", "attention_rollout", "value_zeroing", "context_attribution", "interactions", "hierarchical")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    OCCLUSION_FIELD_NUMBER: _ClassVar[int]
    LIME_FIELD_NUMBER: _ClassVar[int]
    KERNEL_SHAP_FIELD_NUMBER: _ClassVar[int]
    SHAPLEY_PERMUTATION_FIELD_NUMBER: _ClassVar[int]
    INPUT_TIMES_GRADIENT_FIELD_NUMBER: _ClassVar[int]
    INTEGRATED_GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    VALUE_ZEROING_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_ATTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    INTERACTIONS_FIELD_NUMBER: _ClassVar[int]
    HIERARCHICAL_FIELD_NUMBER: _ClassVar[int]
    model: str
    prompt: _common_pb2.Prompt
    target: Target
    features: Features
    removal: Removal
    budget: Budget
    quality: Quality
    precision: PrecisionPolicy
    rows: Rows
    occlusion: Occlusion
    lime: Lime
    kernel_shap: KernelShap
    shapley_permutation: ShapleyPermutation
    input_times_gradient: InputTimesGradient
    integrated_gradients: IntegratedGradients
    attention_rollout: AttentionRollout
    value_zeroing: ValueZeroing
    context_attribution: ContextAttribution
    interactions: Interactions
    hierarchical: Hierarchical
    def __init__(self, model: _Optional[str] = ..., prompt: _Optional[_Union[_common_pb2.Prompt, _Mapping]] = ..., target: _Optional[_Union[Target, _Mapping]] = ..., features: _Optional[_Union[Features, _Mapping]] = ..., removal: _Optional[_Union[Removal, _Mapping]] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., quality: _Optional[_Union[Quality, _Mapping]] = ..., precision: _Optional[_Union[PrecisionPolicy, str]] = ..., rows: _Optional[_Union[Rows, _Mapping]] = ..., occlusion: _Optional[_Union[Occlusion, _Mapping]] = ..., lime: _Optional[_Union[Lime, _Mapping]] = ..., kernel_shap: _Optional[_Union[KernelShap, _Mapping]] = ..., shapley_permutation: _Optional[_Union[ShapleyPermutation, _Mapping]] = ..., input_times_gradient: _Optional[_Union[InputTimesGradient, _Mapping]] = ..., integrated_gradients: _Optional[_Union[IntegratedGradients, _Mapping]] = ..., attention_rollout: _Optional[_Union[AttentionRollout, _Mapping]] = ..., value_zeroing: _Optional[_Union[ValueZeroing, _Mapping]] = ..., context_attribution: _Optional[_Union[ContextAttribution, _Mapping]] = ..., interactions: _Optional[_Union[Interactions, _Mapping]] = ..., hierarchical: _Optional[_Union[Hierarchical, _Mapping]] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("next_token", "continuation", "generation", "contrast", "scale")
    NEXT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CONTRAST_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    next_token: NextTokenTarget
    continuation: _common_pb2.Continuation
    generation: GenerationTarget
    contrast: ContrastTarget
    scale: TargetScale
    def __init__(self, next_token: _Optional[_Union[NextTokenTarget, _Mapping]] = ..., continuation: _Optional[_Union[_common_pb2.Continuation, _Mapping]] = ..., generation: _Optional[_Union[GenerationTarget, _Mapping]] = ..., contrast: _Optional[_Union[ContrastTarget, _Mapping]] = ..., scale: _Optional[_Union[TargetScale, str]] = ...) -> None: ...

class NextTokenTarget(_message.Message):
    __slots__ = ("text", "id")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    text: str
    id: int
    def __init__(self, text: _Optional[str] = ..., id: _Optional[int] = ...) -> None: ...

class GenerationTarget(_message.Message):
    __slots__ = ("max_tokens",)
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    def __init__(self, max_tokens: _Optional[int] = ...) -> None: ...

class ContrastTarget(_message.Message):
    __slots__ = ("chosen", "rejected")
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    chosen: _common_pb2.Continuation
    rejected: _common_pb2.Continuation
    def __init__(self, chosen: _Optional[_Union[_common_pb2.Continuation, _Mapping]] = ..., rejected: _Optional[_Union[_common_pb2.Continuation, _Mapping]] = ...) -> None: ...

class Features(_message.Message):
    __slots__ = ("unit", "spans", "within")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    unit: FeatureUnit
    spans: _containers.RepeatedCompositeFieldContainer[_common_pb2.CharacterSpan]
    within: _common_pb2.CharacterSpan
    def __init__(self, unit: _Optional[_Union[FeatureUnit, str]] = ..., spans: _Optional[_Iterable[_Union[_common_pb2.CharacterSpan, _Mapping]]] = ..., within: _Optional[_Union[_common_pb2.CharacterSpan, _Mapping]] = ...) -> None: ...

class Rows(_message.Message):
    __slots__ = ("unit", "spans", "pairs")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    unit: FeatureUnit
    spans: _containers.RepeatedCompositeFieldContainer[_common_pb2.CharacterSpan]
    pairs: bool
    def __init__(self, unit: _Optional[_Union[FeatureUnit, str]] = ..., spans: _Optional[_Iterable[_Union[_common_pb2.CharacterSpan, _Mapping]]] = ..., pairs: _Optional[bool] = ...) -> None: ...

class Removal(_message.Message):
    __slots__ = ("kind", "text")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    kind: RemovalKind
    text: str
    def __init__(self, kind: _Optional[_Union[RemovalKind, str]] = ..., text: _Optional[str] = ...) -> None: ...

class Occlusion(_message.Message):
    __slots__ = ("window", "stride")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    window: int
    stride: int
    def __init__(self, window: _Optional[int] = ..., stride: _Optional[int] = ...) -> None: ...

class Lime(_message.Message):
    __slots__ = ("surrogate", "alpha", "kernel_width", "max_depth", "estimator")
    SURROGATE_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    KERNEL_WIDTH_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    ESTIMATOR_FIELD_NUMBER: _ClassVar[int]
    surrogate: Surrogate
    alpha: float
    kernel_width: float
    max_depth: int
    estimator: Estimator
    def __init__(self, surrogate: _Optional[_Union[Surrogate, str]] = ..., alpha: _Optional[float] = ..., kernel_width: _Optional[float] = ..., max_depth: _Optional[int] = ..., estimator: _Optional[_Union[Estimator, str]] = ...) -> None: ...

class KernelShap(_message.Message):
    __slots__ = ("estimator",)
    ESTIMATOR_FIELD_NUMBER: _ClassVar[int]
    estimator: Estimator
    def __init__(self, estimator: _Optional[_Union[Estimator, str]] = ...) -> None: ...

class ShapleyPermutation(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InputTimesGradient(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IntegratedGradients(_message.Message):
    __slots__ = ("steps",)
    STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: int
    def __init__(self, steps: _Optional[int] = ...) -> None: ...

class AttentionRollout(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ValueZeroing(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ContextAttribution(_message.Message):
    __slots__ = ("alpha",)
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    alpha: float
    def __init__(self, alpha: _Optional[float] = ...) -> None: ...

class Interactions(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Hierarchical(_message.Message):
    __slots__ = ("node_value", "threshold")
    NODE_VALUE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    node_value: NodeValue
    threshold: float
    def __init__(self, node_value: _Optional[_Union[NodeValue, str]] = ..., threshold: _Optional[float] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("max_evaluations", "max_duration", "standard_error", "seed")
    MAX_EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_DURATION_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    max_evaluations: int
    max_duration: _duration_pb2.Duration
    standard_error: float
    seed: int
    def __init__(self, max_evaluations: _Optional[int] = ..., max_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., standard_error: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Quality(_message.Message):
    __slots__ = ("faithfulness",)
    FAITHFULNESS_FIELD_NUMBER: _ClassVar[int]
    faithfulness: bool
    def __init__(self, faithfulness: _Optional[bool] = ...) -> None: ...
