"""Requests by the contract's descriptors: plausible ones, hostile ones, and bytes that are no message at all."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gloss import v1 as pb
from tests.fixtures.models import SENTENCES

_F = FieldDescriptor

_MAY_BE_INFINITE = {"standard_errors": "attributions", "interaction_standard_errors": "interactions"}
"""Fields of a row, and the field of its result in which the same standard errors are absent where they are unknown."""

_PLAUSIBLE: dict[str, Callable[[random.Random], Any]] = {
    "text": lambda r: r.choice(SENTENCES)[: r.randint(20, 80)],
    "content": lambda r: r.choice(SENTENCES),
    "role": lambda r: r.choice(("user", "assistant", "system")),
    "ids": lambda r: r.randint(2, 60),
    "stop": lambda r: r.choice((".", " the", "\n")),
    "templates": lambda r: f"The {{}} {r.choice(('works', 'sleeps', 'reads'))} in the {r.choice(('town', 'house'))}.",
    "words": lambda r: r.choice(("doctor", "nurse", "king", "queen", "cat", "dog")),
    "label": lambda r: r.choice(("one", "two", "three")),
    "top_k": lambda r: r.randint(1, 20),
    "max_tokens": lambda r: r.randint(1, 8),
    "temperature": lambda r: r.uniform(0.3, 2),
    "top_p": lambda r: r.uniform(0.1, 1),
    "layers": lambda r: r.randint(0, 1),
    "heads": lambda r: r.randint(0, 3),
    "queries": lambda r: r.randint(0, 6),
    "top_n": lambda r: r.randint(1, 5),
    "window": lambda r: r.randint(1, 3),
    "stride": lambda r: 1,
    "alpha": lambda r: r.choice((0.001, 0.01, 1.0)),
    "kernel_width": lambda r: r.uniform(1, 50),
    "max_depth": lambda r: r.randint(1, 4),
    "steps": lambda r: r.randint(1, 20),
    "max_evaluations": lambda r: r.randint(20, 80),
    "standard_error": lambda r: r.choice((0.01, 1.0)),
    "held_out": lambda r: r.uniform(0.1, 0.5),
    "begin": lambda r: r.randint(0, 8),
    "end": lambda r: r.randint(9, 20),
    "seconds": lambda r: r.randint(0, 5),
    "nanos": lambda r: r.randint(1, 10**9 - 1),
    "page_size": lambda r: r.randint(0, 20),
    "page_token": lambda r: "",
    "request_id": lambda r: r.choice(("", f"{r.getrandbits(128):032x}")),
}
"""Values by which a field's message may be accepted, by the field's name."""

_TEXTS = (
    "", " ", "\t\n", "a\0b", "[/]", "[link=http://x]x[/link]", "\x1b[31mred\x1b[0m\x07", "<script>alert(1)</script>",
    "../../etc/passwd", "%s%n{}{0.__class__}", "\u202eabc", "e\u0301" * 50, "🦊" * 40, "ก" * 60, "\ufeff", "\U0010ffff",
    "word " * 4000, "x" * 20000, "explanations/" + "0" * 32, "explanations/*", "'; DROP TABLE x", "{}", "<|endoftext|>",
    "\\u0000", "١٢٣", "a" * 300, "\u200b", "\r\nX-Header: 1",
)  # fmt: skip
_INTEGERS = {
    _F.TYPE_INT32: (0, -1, 2**31 - 1, -(2**31), 1000, 257),
    _F.TYPE_INT64: (0, -1, 2**63 - 1, -(2**63), 315576000000),
    _F.TYPE_UINT32: (0, 2**32 - 1),
    _F.TYPE_UINT64: (0, 2**64 - 1, 2**63),
}
_FLOATS = (0.0, -0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e308, 5e-324, 1e-9, 3.4e38)
_DEPTH = 6


class Fuzzer:
    """Draws requests. The same seed draws the same ones.

    Args:
        models: names that are served, for fields that name one.
        wild: how often a field has a hostile value rather than a plausible one.
        filled: how often an optional field is set.
    """

    def __init__(self, seed: int, models: Sequence[str], *, wild: float, filled: float = 0.5) -> None:
        self.random = random.Random(seed)
        self.known: list[str] = ["explanations/" + "0" * 32]
        """Names of explanations, for fields that refer to one."""
        self._models = models
        self._wild, self._filled = wild, filled

    def request(self, method: MethodDescriptor) -> bytes:
        """A request of a method, as it is sent."""
        return self.message(method.input_type).SerializeToString()

    def broken(self, method: MethodDescriptor) -> bytes:
        """Bytes that once were a request, or never."""
        data = bytearray(self.request(method))
        draw = self.random
        match draw.randrange(6):
            case 0:
                return draw.randbytes(draw.randint(1, 200))
            case 1:
                return bytes(data[: draw.randint(0, len(data))])
            case 2:
                for _ in range(draw.randint(1, 8) if data else 0):
                    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
                return bytes(data)
            case 3:
                return bytes(data) + draw.randbytes(draw.randint(1, 50))
            case 4:
                return b"\x0a" * draw.randint(1, 5000)  # a message in a message in a message
            case _:
                return b"\x0a\x04\xff\xfe\xfd\xfc" + bytes(data)  # no UTF-8

    def message(self, kind: Descriptor, depth: int = 0) -> Message:
        """A message of a kind."""
        draw = self.random
        found = GetMessageClass(kind)()
        alternatives = {field.name for one in kind.oneofs if len(one.fields) > 1 for field in one.fields}
        chosen = {draw.choice(one.fields).name for one in kind.oneofs if len(one.fields) > 1 and draw.random() < 0.95}
        for field in kind.fields:
            needed = field.name in chosen or field.name in {"prompt", "prompts", "items", "continuation", "messages"}
            if field.name in alternatives - chosen or not (needed or draw.random() < self._filled):
                continue
            if field.message_type is not None and depth >= _DEPTH:
                continue
            self._set(found, field, depth)
        return found

    def _set(self, found: Message, field: FieldDescriptor, depth: int) -> None:
        wild = self.random.random() < self._wild
        if field.is_repeated:
            count = self.random.choice((0, 1, 40, 300)) if wild else self.random.choice((1, 1, 2, 2, 3, 24))
            values = getattr(found, field.name)
            for _ in range(min(count, 300 >> (3 * depth)) or count % 2):
                if field.message_type is not None:
                    values.add().CopyFrom(self.message(field.message_type, depth + 1))
                else:
                    values.append(self._value(field))
        elif field.message_type is not None:
            getattr(found, field.name).CopyFrom(self.message(field.message_type, depth + 1))
        else:
            setattr(found, field.name, self._value(field))

    def _value(self, field: FieldDescriptor) -> Any:  # noqa: PLR0911 -- a kind of value each
        draw = self.random
        wild = draw.random() < self._wild
        if field.type == _F.TYPE_ENUM:
            numbers = [value.number for value in field.enum_type.values]
            return draw.choice((99, -1, 2**31 - 1)) if wild else draw.choice(numbers)
        if field.type == _F.TYPE_BOOL:
            return draw.random() < 0.5
        if not wild:
            if field.name == "model":
                return draw.choice(("", *self._models))
            if field.name == "name":
                return draw.choice(self.known)
            if (plausible := _PLAUSIBLE.get(field.name)) is not None:
                return plausible(draw)
        if field.type in _INTEGERS:
            return draw.choice(_INTEGERS[field.type]) if wild else draw.randint(0, 5)
        if field.type in {_F.TYPE_DOUBLE, _F.TYPE_FLOAT}:
            return draw.choice(_FLOATS) if wild else draw.random()
        if field.type == _F.TYPE_BYTES:
            return draw.randbytes(draw.randint(0, 50))
        return draw.choice(_TEXTS) if wild else draw.choice(SENTENCES)[:40]


def not_numbers(message: Message, path: str = "") -> list[str]:
    """The fields of a message that hold no number where one belongs: NaN or an infinity.

    A standard error in a row is infinite exactly where that of the same feature or pair is absent in the result.
    """
    found = []
    for field, value in message.ListFields():
        where = f"{path}.{field.name}"
        for one in value if field.is_repeated and not isinstance(value, dict) else [value]:
            if isinstance(one, Message):
                found += not_numbers(one, where)
            elif isinstance(one, float) and not math.isfinite(one) and not (field.name in _MAY_BE_INFINITE and one > 0):
                found.append(where)
    if isinstance(message, pb.ExplanationResult):
        found += [f"{path}.rows.{name}" for name in _MAY_BE_INFINITE if not _rows_know_as_much(message, name)]
    return found


def _rows_know_as_much(result: pb.ExplanationResult, name: str) -> bool:
    """Whether the rows' standard errors in the field `name` are unknown exactly where the result's are."""
    unknown = [not each.HasField("standard_error") for each in getattr(result, _MAY_BE_INFINITE[name])]
    rows = [getattr(row, name) for row in result.rows if len(getattr(row, _MAY_BE_INFINITE[name]))]
    return all([math.isinf(error) for error in errors or [0.0] * len(unknown)] == unknown for errors in rows)
