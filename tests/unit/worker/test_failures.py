"""What ended an explanation, as the contract's error."""

import logging

import pytest

from gloss import v1 as pb
from ml import errors
from worker.failures import ModelChangedError, to_error
from worker.interruption import TimeLimitReached


@pytest.mark.parametrize(
    ("error", "reason", "metadata"),
    [
        (errors.InputError("lime.alpha", "no"), pb.ERROR_REASON_INVALID_FIELD, {}),
        (
            errors.PromptTooLongError("prompt.text", 9, 8),
            pb.ERROR_REASON_PROMPT_TOO_LONG,
            {"tokens": "9", "limit": "8"},
        ),
        (errors.ReplyTooLargeError("layers", 9, 8), pb.ERROR_REASON_REPLY_TOO_LARGE, {"bytes": "9", "limit": "8"}),
        (errors.NoAttentionError("m"), pb.ERROR_REASON_NO_ATTENTION, {"model": "m"}),
        (errors.NoChatTemplateError("m"), pb.ERROR_REASON_NO_CHAT_TEMPLATE, {"model": "m"}),
        (errors.CapabilityError("m", "no"), pb.ERROR_REASON_NOT_SUPPORTED, {"model": "m"}),
        (errors.GlossError("no"), pb.ERROR_REASON_INVALID_FIELD, {}),
        (ModelChangedError("a", "b"), pb.ERROR_REASON_MODEL_CHANGED, {"expected": "a", "actual": "b"}),
        (TimeLimitReached(1.5), pb.ERROR_REASON_TIME_LIMIT, {"seconds": "1.5"}),
    ],
)
def test_what_can_be_mended_is_told(error, reason, metadata):
    logged = to_error(error)
    assert logged.reason == reason
    assert logged.metadata == metadata
    assert logged.message


def test_fields_are_named():
    assert to_error(errors.InputError("lime.alpha", "must be above 0")).message == "lime.alpha: must be above 0"


def test_the_unforeseen_is_told_in_the_log_only(caplog):
    with caplog.at_level(logging.ERROR):
        logged = to_error(RuntimeError("secret of the house"))
    assert logged.reason == pb.ERROR_REASON_INTERNAL
    assert "secret" not in str(logged)
    assert logged.metadata["incident"] in logged.message
    assert logged.metadata["incident"] in caplog.text
    assert "secret of the house" in caplog.text
