"""The pairs of messages and dataclasses that requests and replies are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import overload

from gloss import v1 as pb
from ml import result, spec
from schema.codec import codec

PROMPT = codec(pb.Prompt, spec.Prompt)
CONTINUATION = codec(pb.Continuation, spec.Continuation)
EXPLANATION_SPEC = codec(pb.ExplanationSpec, spec.ExplanationSpec)
STUDY_SPEC = codec(pb.StudySpec, spec.StudySpec)

TOKEN = codec(pb.Token, result.Token)
PROGRESS = codec(pb.Progress, result.Progress)
EXPLANATION_RESULT = codec(pb.ExplanationResult, result.ExplanationResult)
STUDY_RESULT = codec(pb.StudyResult, result.StudyResult)


def to_prompt(message: pb.Prompt, path: str = "prompt") -> spec.Prompt:
    """The prompt of a request. `path` is where it sits there, such as ``prompts[2]``.

    Raises:
        InputError: the prompt is empty, blank, holds NUL or is not set.
    """
    return PROMPT.read(message, path)


def to_continuation(message: pb.Continuation, path: str = "continuation") -> spec.Continuation:
    """The continuation of a request. `path` is where it sits there.

    Raises:
        InputError: the continuation is empty, holds NUL or is not set.
    """
    return CONTINUATION.read(message, path)


def to_question(message: pb.ExplanationSpec | pb.StudySpec) -> spec.ExplanationSpec | spec.StudySpec:
    """What a request asks, with defaults filled in.

    Raises:
        InputError: a field's value is not allowed, whatever the model; its path is relative to the message.
    """
    return EXPLANATION_SPEC.read(message) if isinstance(message, pb.ExplanationSpec) else STUDY_SPEC.read(message)


def from_tokens(tokens: Iterable[result.Token]) -> list[pb.Token]:
    """The contract's messages of tokens."""
    return [TOKEN.write(token) for token in tokens]


def from_progress(progress: result.Progress) -> pb.Progress:
    """The contract's message of how far the work is."""
    return PROGRESS.write(progress)


@overload
def from_result(found: result.ExplanationResult) -> pb.ExplanationResult: ...


@overload
def from_result(found: result.ExplanationResult | result.StudyResult) -> pb.ExplanationResult | pb.StudyResult: ...


def from_result(found: result.ExplanationResult | result.StudyResult) -> pb.ExplanationResult | pb.StudyResult:
    """The contract's message of a result, partial or final."""
    return EXPLANATION_RESULT.write(found) if isinstance(found, result.ExplanationResult) else STUDY_RESULT.write(found)
