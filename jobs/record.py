"""The hash that holds an explanation, and the message made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

from google.protobuf.message import DecodeError, Message

from gloss import v1 as pb
from jobs import names
from jobs.errors import DataCorruptError

_HEAD = ("state", "model", "method", "preview", "attempt", "progress", "error")
_TIMES = ("created", "started", "ended", "expires")
_RESULTS = ("partial", "result")

Question = pb.ExplanationSpec | pb.StudySpec
Result = pb.ExplanationResult | pb.StudyResult

_FIELDS = {
    "spec": ("spec", "study"),
    "partial": ("partial_result", "partial_study_result"),
    "result": ("result", "study_result"),
}
"""Where an `Explanation` has what is stored in a field, which holds one with that alone."""

_SHOWS_PARTIAL = frozenset({"QUEUED", "RUNNING", "FAILED", "CANCELLED"})
_MAX_ATTEMPTS = 2**31 - 1
_LATEST_MS = 253_402_300_799_999
"""The end of the year 9999, after which no timestamp can be."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def fields(view: pb.ExplanationView, *, results: bool) -> tuple[str, ...]:
    """The fields of the record that a view shows, so that the large ones are read only where they are shown."""
    spec = ("spec",) if view == pb.EXPLANATION_VIEW_FULL else ()
    return (*_HEAD, *_TIMES, *spec, *(_RESULTS if results else ()))


def state_name(state: pb.ExplanationState) -> str:
    """``RUNNING`` for EXPLANATION_STATE_RUNNING: the word that the record and the indexes use."""
    return pb.ExplanationState.Name(state).removeprefix("EXPLANATION_STATE_")


def pack(field: str, message: Question | Result) -> bytes:
    """What is stored in a field for a part of an explanation: equal bytes for equal parts."""
    descriptors = pb.Explanation.DESCRIPTOR.fields_by_name
    [place] = (name for name in _FIELDS[field] if descriptors[name].message_type is message.DESCRIPTOR)
    holder = pb.Explanation()
    getattr(holder, place).CopyFrom(message)
    getattr(holder, place).SetInParent()
    return holder.SerializeToString(deterministic=True)


def _state(value: bytes) -> str:
    word = value.decode()
    if not pb.ExplanationState.Value(f"EXPLANATION_STATE_{word}"):
        raise ValueError(word)
    return word


class Record:
    """The fields of an explanation's record, read with care: others may have written to the same Redis."""

    def __init__(self, key: str, fields: Mapping[str, bytes]) -> None:
        self.name = names.resource(key)
        self._fields = fields

    def message(self, field: str, kind: type[M]) -> M:
        """The message in a field.

        Raises:
            DataCorruptError: there is none, or it cannot be read.
        """
        return self._read(field, kind.FromString)

    def question(self) -> Question:
        """What was asked.

        Raises:
            DataCorruptError: there is nothing, or it cannot be read.
        """
        return cast(Question, self._part("spec")[1])

    def number(self, field: str, largest: int) -> int:
        """The whole number in a field, from 0 to `largest`.

        Raises:
            DataCorruptError: there is none.
        """

        def parse(value: bytes) -> int:
            if not value.isdigit() or len(value) > len(str(largest)) or int(value) > largest:
                raise ValueError
            return int(value)

        return self._read(field, parse)

    def milliseconds(self, field: str) -> int:
        """The time in a field.

        Raises:
            DataCorruptError: there is none.
        """
        return self.number(field, _LATEST_MS)

    def text(self, field: str) -> str:
        """The text in a field, empty where there is none, for people to read: what is no UTF-8 is replaced."""
        return self._fields.get(field, b"").decode(errors="replace")

    def explanation(self, view: pb.ExplanationView) -> pb.Explanation:
        """The contract's message in a view; results that were not read are left out of it.

        Raises:
            DataCorruptError: a field that every explanation of this state has is missing, or one cannot be read.
        """
        word = self._read("state", _state)
        explanation = pb.Explanation(
            name=self.name,
            model=self.message("model", pb.ModelVersion),
            state=f"EXPLANATION_STATE_{word}",
            method=self.text("method"),
            prompt_preview=self.text("preview"),
            attempt=self.number("attempt", _MAX_ATTEMPTS),
        )
        if view == pb.EXPLANATION_VIEW_FULL:
            self._put(explanation, "spec")
        explanation.create_time.FromMilliseconds(self.milliseconds("created"))
        if "progress" in self._fields:
            explanation.progress.CopyFrom(self.message("progress", pb.Progress))
        if "partial" in self._fields and word in _SHOWS_PARTIAL:
            self._put(explanation, "partial")
        if "result" in self._fields:
            self._put(explanation, "result")
        if "error" in self._fields or word == "FAILED":
            explanation.error.CopyFrom(self.message("error", pb.ExplanationError))
        for field, time in (
            ("started", explanation.start_time),
            ("ended", explanation.end_time),
            ("expires", explanation.expire_time),
        ):
            if field in self._fields:
                time.FromMilliseconds(self.milliseconds(field))
        return explanation

    def _put(self, explanation: pb.Explanation, field: str) -> None:
        """Put what is stored in a field where the explanation has it."""
        place, message = self._part(field)
        getattr(explanation, place).CopyFrom(message)
        getattr(explanation, place).SetInParent()
        if field == "partial" and explanation.state == pb.EXPLANATION_STATE_CANCELLED:
            # Whoever cancelled it did so behind the back of the worker that wrote the result.
            getattr(explanation, place).cost.stop_reason = pb.STOP_REASON_CANCELLED

    def _part(self, field: str) -> tuple[str, Message]:
        def parse(value: bytes) -> tuple[str, Message]:
            holder = pb.Explanation.FromString(value)
            [place] = (name for name in _FIELDS[field] if holder.HasField(name))
            return place, getattr(holder, place)

        return self._read(field, parse)

    def _read(self, field: str, parse: Callable[[bytes], T]) -> T:
        try:
            return parse(self._fields[field])
        except (KeyError, ValueError, DecodeError):
            raise DataCorruptError(self.name, field) from None


def read(
    key: str, view: pb.ExplanationView, wanted: Sequence[str], answer: bytes | Sequence[bytes | None]
) -> pb.Explanation:
    """The explanation in an answer of the script `look`, which was asked for some fields.

    Raises:
        DataCorruptError: it cannot be read.
    """
    if isinstance(answer, bytes):
        raise DataCorruptError(names.resource(key), answer.decode())
    fields = {field: value for field, value in zip(wanted, answer, strict=True) if value is not None}
    return Record(key, fields).explanation(view)
