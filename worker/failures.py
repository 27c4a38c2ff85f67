"""From exceptions to the contract's errors of an explanation."""

from __future__ import annotations

import logging
import uuid

from gloss import v1 as pb
from ml.errors import (
    CapabilityError,
    EngineError,
    EngineModelChangedError,
    GlossError,
    InputError,
    NoAttentionError,
    NoChatTemplateError,
    PromptTooLongError,
    ReplyTooLargeError,
)
from worker.interruption import TimeLimitReached

_log = logging.getLogger(__name__)


class ModelChangedError(Exception):
    """The worker's model (`actual`) is not the one that the explanation was created for (`expected`)."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__("the model has changed since the explanation was created; create it again")
        self.expected = expected
        self.actual = actual


def to_error(error: BaseException) -> pb.ExplanationError:
    """The error for the explanation's record.

    Errors that the caller can act on have their full message. Unexpected ones only have an incident id, with which the
    traceback is logged.
    """
    metadata: dict[str, str] = {}
    message = f"{error.field}: {error}" if isinstance(error, InputError) else str(error)
    match error:
        case PromptTooLongError():
            reason, metadata = pb.ERROR_REASON_PROMPT_TOO_LONG, {"tokens": str(error.tokens), "limit": str(error.limit)}
        case ReplyTooLargeError():
            reason, metadata = pb.ERROR_REASON_REPLY_TOO_LARGE, {"bytes": str(error.size), "limit": str(error.limit)}
        case NoAttentionError():
            reason, metadata = pb.ERROR_REASON_NO_ATTENTION, {"model": error.model}
        case NoChatTemplateError():
            reason, metadata = pb.ERROR_REASON_NO_CHAT_TEMPLATE, {"model": error.model}
        case CapabilityError():
            reason, metadata = pb.ERROR_REASON_NOT_SUPPORTED, {"model": error.model}
        case EngineModelChangedError():
            differs = {"difference": f"{error.difference:.3g}", "tolerance": f"{error.tolerance:.3g}"}
            reason, metadata = pb.ERROR_REASON_MODEL_CHANGED, {"model": error.model, **differs}
        case EngineError():
            reason, metadata = pb.ERROR_REASON_ENGINE_UNAVAILABLE, {"model": error.model}
        case GlossError():
            reason = pb.ERROR_REASON_INVALID_FIELD
        case ModelChangedError():
            reason, metadata = pb.ERROR_REASON_MODEL_CHANGED, {"expected": error.expected, "actual": error.actual}
        case TimeLimitReached():
            reason, metadata = pb.ERROR_REASON_TIME_LIMIT, {"seconds": f"{error.seconds:g}"}
            message = f"the worker's limit of {error.seconds:g} s for one explanation was reached; set a smaller budget"
        case _:
            reason, metadata = pb.ERROR_REASON_INTERNAL, {"incident": uuid.uuid4().hex}
            message = f"unexpected error; ask the operator, whose worker log has incident {metadata['incident']}"
            _log.error("incident %s", metadata["incident"], exc_info=error)
    return pb.ExplanationError(reason=reason, message=message, metadata=metadata)
