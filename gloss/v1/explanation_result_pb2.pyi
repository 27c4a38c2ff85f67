import datetime

from gloss.v1 import common_pb2 as _common_pb2
from gloss.v1 import explanation_spec_pb2 as _explanation_spec_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AttributionUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ATTRIBUTION_UNIT_UNSPECIFIED: _ClassVar[AttributionUnit]
    ATTRIBUTION_UNIT_NAT: _ClassVar[AttributionUnit]
    ATTRIBUTION_UNIT_PROBABILITY: _ClassVar[AttributionUnit]
    ATTRIBUTION_UNIT_LOG_ODDS: _ClassVar[AttributionUnit]
    ATTRIBUTION_UNIT_SHARE: _ClassVar[AttributionUnit]
    ATTRIBUTION_UNIT_IMPURITY_SHARE: _ClassVar[AttributionUnit]

class NodeLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_LEVEL_UNSPECIFIED: _ClassVar[NodeLevel]
    NODE_LEVEL_TEXT: _ClassVar[NodeLevel]
    NODE_LEVEL_MESSAGE: _ClassVar[NodeLevel]
    NODE_LEVEL_SECTION: _ClassVar[NodeLevel]
    NODE_LEVEL_PARAGRAPH: _ClassVar[NodeLevel]
    NODE_LEVEL_SENTENCE: _ClassVar[NodeLevel]
    NODE_LEVEL_WORD: _ClassVar[NodeLevel]
    NODE_LEVEL_TOKEN: _ClassVar[NodeLevel]
    NODE_LEVEL_SPAN: _ClassVar[NodeLevel]
    NODE_LEVEL_GROUP: _ClassVar[NodeLevel]

class TrustVerdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRUST_VERDICT_UNSPECIFIED: _ClassVar[TrustVerdict]
    TRUST_VERDICT_TRUSTED: _ClassVar[TrustVerdict]
    TRUST_VERDICT_CAUTION: _ClassVar[TrustVerdict]
    TRUST_VERDICT_NOT_TRUSTED: _ClassVar[TrustVerdict]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    STOP_REASON_COMPLETE: _ClassVar[StopReason]
    STOP_REASON_EVALUATIONS: _ClassVar[StopReason]
    STOP_REASON_DURATION: _ClassVar[StopReason]
    STOP_REASON_STANDARD_ERROR: _ClassVar[StopReason]
    STOP_REASON_CANCELLED: _ClassVar[StopReason]
    STOP_REASON_RANKED: _ClassVar[StopReason]
ATTRIBUTION_UNIT_UNSPECIFIED: AttributionUnit
ATTRIBUTION_UNIT_NAT: AttributionUnit
ATTRIBUTION_UNIT_PROBABILITY: AttributionUnit
ATTRIBUTION_UNIT_LOG_ODDS: AttributionUnit
ATTRIBUTION_UNIT_SHARE: AttributionUnit
ATTRIBUTION_UNIT_IMPURITY_SHARE: AttributionUnit
NODE_LEVEL_UNSPECIFIED: NodeLevel
NODE_LEVEL_TEXT: NodeLevel
NODE_LEVEL_MESSAGE: NodeLevel
NODE_LEVEL_SECTION: NodeLevel
NODE_LEVEL_PARAGRAPH: NodeLevel
NODE_LEVEL_SENTENCE: NodeLevel
NODE_LEVEL_WORD: NodeLevel
NODE_LEVEL_TOKEN: NodeLevel
NODE_LEVEL_SPAN: NodeLevel
NODE_LEVEL_GROUP: NodeLevel
TRUST_VERDICT_UNSPECIFIED: TrustVerdict
TRUST_VERDICT_TRUSTED: TrustVerdict
TRUST_VERDICT_CAUTION: TrustVerdict
TRUST_VERDICT_NOT_TRUSTED: TrustVerdict
STOP_REASON_UNSPECIFIED: StopReason
STOP_REASON_COMPLETE: StopReason
STOP_REASON_EVALUATIONS: StopReason
STOP_REASON_DURATION: StopReason
STOP_REASON_STANDARD_ERROR: StopReason
STOP_REASON_CANCELLED: StopReason
STOP_REASON_RANKED: StopReason

class ExplanationResult(_message.Message):
    __slots__ = ("text", "tokens", "target", "removal", "attributions", "base_value", "full_value", "surrogate", "interactions", "completeness_error", "stability", "faithfulness", "converged", "trust", "cost", "precision", "attribution_unit", "outside_share", "rows", "hierarchy")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    BASE_VALUE_FIELD_NUMBER: _ClassVar[int]
    FULL_VALUE_FIELD_NUMBER: _ClassVar[int]
    SURROGATE_FIELD_NUMBER: _ClassVar[int]
    INTERACTIONS_FIELD_NUMBER: _ClassVar[int]
    COMPLETENESS_ERROR_FIELD_NUMBER: _ClassVar[int]
    STABILITY_FIELD_NUMBER: _ClassVar[int]
    FAITHFULNESS_FIELD_NUMBER: _ClassVar[int]
    CONVERGED_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTION_UNIT_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_SHARE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    HIERARCHY_FIELD_NUMBER: _ClassVar[int]
    text: str
    tokens: _containers.RepeatedCompositeFieldContainer[_common_pb2.Token]
    target: ResolvedTarget
    removal: ResolvedRemoval
    attributions: _containers.RepeatedCompositeFieldContainer[FeatureAttribution]
    base_value: float
    full_value: float
    surrogate: SurrogateFit
    interactions: _containers.RepeatedCompositeFieldContainer[Interaction]
    completeness_error: float
    stability: float
    faithfulness: Faithfulness
    converged: bool
    trust: Trust
    cost: Cost
    precision: Precision
    attribution_unit: AttributionUnit
    outside_share: float
    rows: _containers.RepeatedCompositeFieldContainer[AttributionRow]
    hierarchy: Hierarchy
    def __init__(self, text: _Optional[str] = ..., tokens: _Optional[_Iterable[_Union[_common_pb2.Token, _Mapping]]] = ..., target: _Optional[_Union[ResolvedTarget, _Mapping]] = ..., removal: _Optional[_Union[ResolvedRemoval, _Mapping]] = ..., attributions: _Optional[_Iterable[_Union[FeatureAttribution, _Mapping]]] = ..., base_value: _Optional[float] = ..., full_value: _Optional[float] = ..., surrogate: _Optional[_Union[SurrogateFit, _Mapping]] = ..., interactions: _Optional[_Iterable[_Union[Interaction, _Mapping]]] = ..., completeness_error: _Optional[float] = ..., stability: _Optional[float] = ..., faithfulness: _Optional[_Union[Faithfulness, _Mapping]] = ..., converged: _Optional[bool] = ..., trust: _Optional[_Union[Trust, _Mapping]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., precision: _Optional[_Union[Precision, _Mapping]] = ..., attribution_unit: _Optional[_Union[AttributionUnit, str]] = ..., outside_share: _Optional[float] = ..., rows: _Optional[_Iterable[_Union[AttributionRow, _Mapping]]] = ..., hierarchy: _Optional[_Union[Hierarchy, _Mapping]] = ...) -> None: ...

class FeatureAttribution(_message.Message):
    __slots__ = ("text", "span", "positions", "attribution", "standard_error", "interval")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    text: str
    span: _common_pb2.CharacterSpan
    positions: _containers.RepeatedScalarFieldContainer[int]
    attribution: float
    standard_error: float
    interval: Interval
    def __init__(self, text: _Optional[str] = ..., span: _Optional[_Union[_common_pb2.CharacterSpan, _Mapping]] = ..., positions: _Optional[_Iterable[int]] = ..., attribution: _Optional[float] = ..., standard_error: _Optional[float] = ..., interval: _Optional[_Union[Interval, _Mapping]] = ...) -> None: ...

class Hierarchy(_message.Message):
    __slots__ = ("nodes", "node_value", "rest_value")
    NODES_FIELD_NUMBER: _ClassVar[int]
    NODE_VALUE_FIELD_NUMBER: _ClassVar[int]
    REST_VALUE_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[HierarchyNode]
    node_value: _explanation_spec_pb2.NodeValue
    rest_value: float
    def __init__(self, nodes: _Optional[_Iterable[_Union[HierarchyNode, _Mapping]]] = ..., node_value: _Optional[_Union[_explanation_spec_pb2.NodeValue, str]] = ..., rest_value: _Optional[float] = ...) -> None: ...

class HierarchyNode(_message.Message):
    __slots__ = ("level", "span", "first_feature", "feature_count", "value", "standard_error", "looked_into", "children", "hidden", "in_rest")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    FIRST_FEATURE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    LOOKED_INTO_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    IN_REST_FIELD_NUMBER: _ClassVar[int]
    level: NodeLevel
    span: _common_pb2.CharacterSpan
    first_feature: int
    feature_count: int
    value: float
    standard_error: float
    looked_into: bool
    children: _containers.RepeatedScalarFieldContainer[int]
    hidden: float
    in_rest: bool
    def __init__(self, level: _Optional[_Union[NodeLevel, str]] = ..., span: _Optional[_Union[_common_pb2.CharacterSpan, _Mapping]] = ..., first_feature: _Optional[int] = ..., feature_count: _Optional[int] = ..., value: _Optional[float] = ..., standard_error: _Optional[float] = ..., looked_into: _Optional[bool] = ..., children: _Optional[_Iterable[int]] = ..., hidden: _Optional[float] = ..., in_rest: _Optional[bool] = ...) -> None: ...

class AttributionRow(_message.Message):
    __slots__ = ("text", "span", "positions", "base_value", "full_value", "attributions", "standard_errors", "interval_reach", "interval_level", "interactions", "interaction_standard_errors", "r_squared")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    BASE_VALUE_FIELD_NUMBER: _ClassVar[int]
    FULL_VALUE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERRORS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_REACH_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_LEVEL_FIELD_NUMBER: _ClassVar[int]
    INTERACTIONS_FIELD_NUMBER: _ClassVar[int]
    INTERACTION_STANDARD_ERRORS_FIELD_NUMBER: _ClassVar[int]
    R_SQUARED_FIELD_NUMBER: _ClassVar[int]
    text: str
    span: _common_pb2.CharacterSpan
    positions: _containers.RepeatedScalarFieldContainer[int]
    base_value: float
    full_value: float
    attributions: _containers.RepeatedScalarFieldContainer[float]
    standard_errors: _containers.RepeatedScalarFieldContainer[float]
    interval_reach: float
    interval_level: float
    interactions: _containers.RepeatedScalarFieldContainer[float]
    interaction_standard_errors: _containers.RepeatedScalarFieldContainer[float]
    r_squared: float
    def __init__(self, text: _Optional[str] = ..., span: _Optional[_Union[_common_pb2.CharacterSpan, _Mapping]] = ..., positions: _Optional[_Iterable[int]] = ..., base_value: _Optional[float] = ..., full_value: _Optional[float] = ..., attributions: _Optional[_Iterable[float]] = ..., standard_errors: _Optional[_Iterable[float]] = ..., interval_reach: _Optional[float] = ..., interval_level: _Optional[float] = ..., interactions: _Optional[_Iterable[float]] = ..., interaction_standard_errors: _Optional[_Iterable[float]] = ..., r_squared: _Optional[float] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("lower", "upper", "level")
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    lower: float
    upper: float
    level: float
    def __init__(self, lower: _Optional[float] = ..., upper: _Optional[float] = ..., level: _Optional[float] = ...) -> None: ...

class ResolvedTarget(_message.Message):
    __slots__ = ("description", "tokens", "rejected_tokens", "shared_tokens", "scale", "tokenized_apart", "prefix_contrast", "skipped_token", "overlap", "text")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SHARED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZED_APART_FIELD_NUMBER: _ClassVar[int]
    PREFIX_CONTRAST_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    description: str
    tokens: _containers.RepeatedCompositeFieldContainer[_common_pb2.Token]
    rejected_tokens: _containers.RepeatedCompositeFieldContainer[_common_pb2.Token]
    shared_tokens: _containers.RepeatedCompositeFieldContainer[_common_pb2.Token]
    scale: _explanation_spec_pb2.TargetScale
    tokenized_apart: bool
    prefix_contrast: bool
    skipped_token: _common_pb2.Token
    overlap: str
    text: str
    def __init__(self, description: _Optional[str] = ..., tokens: _Optional[_Iterable[_Union[_common_pb2.Token, _Mapping]]] = ..., rejected_tokens: _Optional[_Iterable[_Union[_common_pb2.Token, _Mapping]]] = ..., shared_tokens: _Optional[_Iterable[_Union[_common_pb2.Token, _Mapping]]] = ..., scale: _Optional[_Union[_explanation_spec_pb2.TargetScale, str]] = ..., tokenized_apart: _Optional[bool] = ..., prefix_contrast: _Optional[bool] = ..., skipped_token: _Optional[_Union[_common_pb2.Token, _Mapping]] = ..., overlap: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class ResolvedRemoval(_message.Message):
    __slots__ = ("kind", "replacement", "similar")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REPLACEMENT_FIELD_NUMBER: _ClassVar[int]
    SIMILAR_FIELD_NUMBER: _ClassVar[int]
    kind: _explanation_spec_pb2.RemovalKind
    replacement: str
    similar: _containers.RepeatedCompositeFieldContainer[SimilarWords]
    def __init__(self, kind: _Optional[_Union[_explanation_spec_pb2.RemovalKind, str]] = ..., replacement: _Optional[str] = ..., similar: _Optional[_Iterable[_Union[SimilarWords, _Mapping]]] = ...) -> None: ...

class SimilarWords(_message.Message):
    __slots__ = ("texts",)
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, texts: _Optional[_Iterable[str]] = ...) -> None: ...

class SurrogateFit(_message.Message):
    __slots__ = ("kind", "r_squared", "intercept", "nodes")
    KIND_FIELD_NUMBER: _ClassVar[int]
    R_SQUARED_FIELD_NUMBER: _ClassVar[int]
    INTERCEPT_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    kind: _explanation_spec_pb2.Surrogate
    r_squared: float
    intercept: float
    nodes: _containers.RepeatedCompositeFieldContainer[TreeNode]
    def __init__(self, kind: _Optional[_Union[_explanation_spec_pb2.Surrogate, str]] = ..., r_squared: _Optional[float] = ..., intercept: _Optional[float] = ..., nodes: _Optional[_Iterable[_Union[TreeNode, _Mapping]]] = ...) -> None: ...

class TreeNode(_message.Message):
    __slots__ = ("value", "samples", "feature", "absent", "present")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    value: float
    samples: int
    feature: int
    absent: int
    present: int
    def __init__(self, value: _Optional[float] = ..., samples: _Optional[int] = ..., feature: _Optional[int] = ..., absent: _Optional[int] = ..., present: _Optional[int] = ...) -> None: ...

class Interaction(_message.Message):
    __slots__ = ("first", "second", "value", "standard_error")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    first: int
    second: int
    value: float
    standard_error: float
    def __init__(self, first: _Optional[int] = ..., second: _Optional[int] = ..., value: _Optional[float] = ..., standard_error: _Optional[float] = ...) -> None: ...

class Faithfulness(_message.Message):
    __slots__ = ("fractions", "comprehensiveness", "sufficiency", "deletion_auc", "insertion_auc", "random_rankings")
    FRACTIONS_FIELD_NUMBER: _ClassVar[int]
    COMPREHENSIVENESS_FIELD_NUMBER: _ClassVar[int]
    SUFFICIENCY_FIELD_NUMBER: _ClassVar[int]
    DELETION_AUC_FIELD_NUMBER: _ClassVar[int]
    INSERTION_AUC_FIELD_NUMBER: _ClassVar[int]
    RANDOM_RANKINGS_FIELD_NUMBER: _ClassVar[int]
    fractions: _containers.RepeatedScalarFieldContainer[float]
    comprehensiveness: ControlledCurve
    sufficiency: ControlledCurve
    deletion_auc: ControlledMetric
    insertion_auc: ControlledMetric
    random_rankings: int
    def __init__(self, fractions: _Optional[_Iterable[float]] = ..., comprehensiveness: _Optional[_Union[ControlledCurve, _Mapping]] = ..., sufficiency: _Optional[_Union[ControlledCurve, _Mapping]] = ..., deletion_auc: _Optional[_Union[ControlledMetric, _Mapping]] = ..., insertion_auc: _Optional[_Union[ControlledMetric, _Mapping]] = ..., random_rankings: _Optional[int] = ...) -> None: ...

class ControlledCurve(_message.Message):
    __slots__ = ("values", "random_values", "aopc")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    RANDOM_VALUES_FIELD_NUMBER: _ClassVar[int]
    AOPC_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    random_values: _containers.RepeatedScalarFieldContainer[float]
    aopc: ControlledMetric
    def __init__(self, values: _Optional[_Iterable[float]] = ..., random_values: _Optional[_Iterable[float]] = ..., aopc: _Optional[_Union[ControlledMetric, _Mapping]] = ...) -> None: ...

class ControlledMetric(_message.Message):
    __slots__ = ("value", "random", "random_deviation")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    RANDOM_FIELD_NUMBER: _ClassVar[int]
    RANDOM_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    value: float
    random: float
    random_deviation: float
    def __init__(self, value: _Optional[float] = ..., random: _Optional[float] = ..., random_deviation: _Optional[float] = ...) -> None: ...

class Trust(_message.Message):
    __slots__ = ("verdict", "reasons")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    verdict: TrustVerdict
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, verdict: _Optional[_Union[TrustVerdict, str]] = ..., reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("evaluations", "tokens_computed", "tokens_saved", "cache_hits", "duration", "stop_reason", "price")
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_COMPUTED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_SAVED_FIELD_NUMBER: _ClassVar[int]
    CACHE_HITS_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    evaluations: int
    tokens_computed: int
    tokens_saved: int
    cache_hits: int
    duration: _duration_pb2.Duration
    stop_reason: StopReason
    price: float
    def __init__(self, evaluations: _Optional[int] = ..., tokens_computed: _Optional[int] = ..., tokens_saved: _Optional[int] = ..., cache_hits: _Optional[int] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ..., price: _Optional[float] = ...) -> None: ...

class Precision(_message.Message):
    __slots__ = ("dtype", "measured_error", "noise")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    MEASURED_ERROR_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    measured_error: float
    noise: float
    def __init__(self, dtype: _Optional[str] = ..., measured_error: _Optional[float] = ..., noise: _Optional[float] = ...) -> None: ...
