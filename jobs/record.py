"""The hash that holds an explanation, and the message made of it."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from gloss import v1 as pb
from jobs import names

SUMMARY_FIELDS = ("spec", "model", "state", "attempt", "created", "started", "ended", "expires", "progress", "error")
"""Fields of an explanation without its results."""

_SHOWS_PARTIAL = frozenset({"RUNNING", "FAILED", "CANCELLED"})


def state_name(state: pb.ExplanationState) -> str:
    """``RUNNING`` for EXPLANATION_STATE_RUNNING: the word that the record and the indexes use."""
    return pb.ExplanationState.Name(state).removeprefix("EXPLANATION_STATE_")


def to_explanation(explanation_id: str, fields: Mapping[str, bytes]) -> pb.Explanation:
    """The contract's message of a record's fields; those that are missing are left out of it."""
    state = fields["state"].decode()
    explanation = pb.Explanation(
        name=names.resource(explanation_id),
        spec=pb.ExplanationSpec.FromString(fields["spec"]),
        model=pb.ModelVersion.FromString(fields["model"]),
        state=f"EXPLANATION_STATE_{state}",
        attempt=int(fields["attempt"]),
    )
    if "progress" in fields:
        explanation.progress.ParseFromString(fields["progress"])
    if "partial" in fields and state in _SHOWS_PARTIAL:
        explanation.partial_result.ParseFromString(fields["partial"])
    if "result" in fields:
        explanation.result.ParseFromString(fields["result"])
    if "error" in fields:
        explanation.error.ParseFromString(fields["error"])
    _set_time(explanation.create_time, fields.get("created"))
    _set_time(explanation.start_time, fields.get("started"))
    _set_time(explanation.end_time, fields.get("ended"))
    _set_time(explanation.expire_time, fields.get("expires"))
    return explanation


def _set_time(timestamp: Timestamp, milliseconds: bytes | None) -> None:
    if milliseconds is not None:
        timestamp.FromMilliseconds(int(milliseconds))
