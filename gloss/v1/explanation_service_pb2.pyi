import datetime

from gloss.v1 import common_pb2 as _common_pb2
from gloss.v1 import error_reason_pb2 as _error_reason_pb2
from gloss.v1 import explanation_result_pb2 as _explanation_result_pb2
from gloss.v1 import explanation_spec_pb2 as _explanation_spec_pb2
from gloss.v1 import study_pb2 as _study_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.api import resource_pb2 as _resource_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExplanationView(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPLANATION_VIEW_UNSPECIFIED: _ClassVar[ExplanationView]
    EXPLANATION_VIEW_BASIC: _ClassVar[ExplanationView]
    EXPLANATION_VIEW_FULL: _ClassVar[ExplanationView]

class ExplanationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPLANATION_STATE_UNSPECIFIED: _ClassVar[ExplanationState]
    EXPLANATION_STATE_QUEUED: _ClassVar[ExplanationState]
    EXPLANATION_STATE_RUNNING: _ClassVar[ExplanationState]
    EXPLANATION_STATE_SUCCEEDED: _ClassVar[ExplanationState]
    EXPLANATION_STATE_FAILED: _ClassVar[ExplanationState]
    EXPLANATION_STATE_CANCELLED: _ClassVar[ExplanationState]

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_PREPARING: _ClassVar[Stage]
    STAGE_CHOOSING_TARGET: _ClassVar[Stage]
    STAGE_EXPLAINING: _ClassVar[Stage]
    STAGE_MEASURING_FAITHFULNESS: _ClassVar[Stage]
    STAGE_DONE: _ClassVar[Stage]
EXPLANATION_VIEW_UNSPECIFIED: ExplanationView
EXPLANATION_VIEW_BASIC: ExplanationView
EXPLANATION_VIEW_FULL: ExplanationView
EXPLANATION_STATE_UNSPECIFIED: ExplanationState
EXPLANATION_STATE_QUEUED: ExplanationState
EXPLANATION_STATE_RUNNING: ExplanationState
EXPLANATION_STATE_SUCCEEDED: ExplanationState
EXPLANATION_STATE_FAILED: ExplanationState
EXPLANATION_STATE_CANCELLED: ExplanationState
STAGE_UNSPECIFIED: Stage
STAGE_PREPARING: Stage
STAGE_CHOOSING_TARGET: Stage
STAGE_EXPLAINING: Stage
STAGE_MEASURING_FAITHFULNESS: Stage
STAGE_DONE: Stage

class Explanation(_message.Message):
    __slots__ = ("name", "spec", "study", "state", "model", "method", "prompt_preview", "progress", "attempt", "create_time", "start_time", "end_time", "expire_time", "partial_result", "result", "partial_study_result", "study_result", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PROMPT_PREVIEW_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_RESULT_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_STUDY_RESULT_FIELD_NUMBER: _ClassVar[int]
    STUDY_RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: _explanation_spec_pb2.ExplanationSpec
    study: _study_pb2.StudySpec
    state: ExplanationState
    model: _common_pb2.ModelVersion
    method: str
    prompt_preview: str
    progress: Progress
    attempt: int
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    partial_result: _explanation_result_pb2.ExplanationResult
    result: _explanation_result_pb2.ExplanationResult
    partial_study_result: _study_pb2.StudyResult
    study_result: _study_pb2.StudyResult
    error: ExplanationError
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[_explanation_spec_pb2.ExplanationSpec, _Mapping]] = ..., study: _Optional[_Union[_study_pb2.StudySpec, _Mapping]] = ..., state: _Optional[_Union[ExplanationState, str]] = ..., model: _Optional[_Union[_common_pb2.ModelVersion, _Mapping]] = ..., method: _Optional[str] = ..., prompt_preview: _Optional[str] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., attempt: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., partial_result: _Optional[_Union[_explanation_result_pb2.ExplanationResult, _Mapping]] = ..., result: _Optional[_Union[_explanation_result_pb2.ExplanationResult, _Mapping]] = ..., partial_study_result: _Optional[_Union[_study_pb2.StudyResult, _Mapping]] = ..., study_result: _Optional[_Union[_study_pb2.StudyResult, _Mapping]] = ..., error: _Optional[_Union[ExplanationError, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("evaluations_done", "evaluations_planned", "remaining_duration", "stage", "tokens_planned")
    EVALUATIONS_DONE_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_PLANNED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_DURATION_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PLANNED_FIELD_NUMBER: _ClassVar[int]
    evaluations_done: int
    evaluations_planned: int
    remaining_duration: _duration_pb2.Duration
    stage: Stage
    tokens_planned: int
    def __init__(self, evaluations_done: _Optional[int] = ..., evaluations_planned: _Optional[int] = ..., remaining_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stage: _Optional[_Union[Stage, str]] = ..., tokens_planned: _Optional[int] = ...) -> None: ...

class ExplanationError(_message.Message):
    __slots__ = ("reason", "message", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    reason: _error_reason_pb2.ErrorReason
    message: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, reason: _Optional[_Union[_error_reason_pb2.ErrorReason, str]] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CreateExplanationRequest(_message.Message):
    __slots__ = ("spec", "study", "request_id", "fresh", "validate_only")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    spec: _explanation_spec_pb2.ExplanationSpec
    study: _study_pb2.StudySpec
    request_id: str
    fresh: bool
    validate_only: bool
    def __init__(self, spec: _Optional[_Union[_explanation_spec_pb2.ExplanationSpec, _Mapping]] = ..., study: _Optional[_Union[_study_pb2.StudySpec, _Mapping]] = ..., request_id: _Optional[str] = ..., fresh: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetExplanationRequest(_message.Message):
    __slots__ = ("name", "view")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    name: str
    view: ExplanationView
    def __init__(self, name: _Optional[str] = ..., view: _Optional[_Union[ExplanationView, str]] = ...) -> None: ...

class ListExplanationsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "state", "view")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    state: ExplanationState
    view: ExplanationView
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., state: _Optional[_Union[ExplanationState, str]] = ..., view: _Optional[_Union[ExplanationView, str]] = ...) -> None: ...

class ListExplanationsResponse(_message.Message):
    __slots__ = ("explanations", "next_page_token")
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    next_page_token: str
    def __init__(self, explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchExplanationRequest(_message.Message):
    __slots__ = ("name", "view")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    name: str
    view: ExplanationView
    def __init__(self, name: _Optional[str] = ..., view: _Optional[_Union[ExplanationView, str]] = ...) -> None: ...

class WatchExplanationResponse(_message.Message):
    __slots__ = ("explanation",)
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    explanation: Explanation
    def __init__(self, explanation: _Optional[_Union[Explanation, _Mapping]] = ...) -> None: ...

class CancelExplanationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteExplanationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteExplanationResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
