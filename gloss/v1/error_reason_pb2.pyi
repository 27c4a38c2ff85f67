from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FIELD: _ClassVar[ErrorReason]
    ERROR_REASON_PROMPT_TOO_LONG: _ClassVar[ErrorReason]
    ERROR_REASON_REPLY_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_EXPLANATION_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_NO_ATTENTION: _ClassVar[ErrorReason]
    ERROR_REASON_NO_CHAT_TEMPLATE: _ClassVar[ErrorReason]
    ERROR_REASON_WRONG_STATE: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_ID_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_QUEUE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_NO_WORKER: _ClassVar[ErrorReason]
    ERROR_REASON_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_SUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_WORKER_LOST: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_CHANGED: _ClassVar[ErrorReason]
    ERROR_REASON_TIME_LIMIT: _ClassVar[ErrorReason]
    ERROR_REASON_STREAM_AGE: _ClassVar[ErrorReason]
    ERROR_REASON_KEY_LIMIT: _ClassVar[ErrorReason]
    ERROR_REASON_DATA_CORRUPT: _ClassVar[ErrorReason]
    ERROR_REASON_STREAM_UNREAD: _ClassVar[ErrorReason]
    ERROR_REASON_MALFORMED_REQUEST: _ClassVar[ErrorReason]
    ERROR_REASON_ENGINE_UNAVAILABLE: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_FIELD: ErrorReason
ERROR_REASON_PROMPT_TOO_LONG: ErrorReason
ERROR_REASON_REPLY_TOO_LARGE: ErrorReason
ERROR_REASON_MODEL_NOT_FOUND: ErrorReason
ERROR_REASON_EXPLANATION_NOT_FOUND: ErrorReason
ERROR_REASON_NO_ATTENTION: ErrorReason
ERROR_REASON_NO_CHAT_TEMPLATE: ErrorReason
ERROR_REASON_WRONG_STATE: ErrorReason
ERROR_REASON_REQUEST_ID_REUSED: ErrorReason
ERROR_REASON_QUEUE_FULL: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_NO_WORKER: ErrorReason
ERROR_REASON_DRAINING: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_NOT_SUPPORTED: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_WORKER_LOST: ErrorReason
ERROR_REASON_MODEL_CHANGED: ErrorReason
ERROR_REASON_TIME_LIMIT: ErrorReason
ERROR_REASON_STREAM_AGE: ErrorReason
ERROR_REASON_KEY_LIMIT: ErrorReason
ERROR_REASON_DATA_CORRUPT: ErrorReason
ERROR_REASON_STREAM_UNREAD: ErrorReason
ERROR_REASON_MALFORMED_REQUEST: ErrorReason
ERROR_REASON_ENGINE_UNAVAILABLE: ErrorReason
