"""Messages of the contract drawn at random, each field set or not."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from hypothesis import strategies as st

_WHOLE = {"TYPE_INT32": 2**31 - 1, "TYPE_INT64": 2**63 - 1, "TYPE_UINT64": 2**64 - 1}


def values_of(field: Any) -> st.SearchStrategy[Any]:
    """Values that a field can hold; of an enum also UNSPECIFIED."""
    if field.message_type is not None:
        return messages_of(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    kind = next(name for name in vars(type(field)) if name.startswith("TYPE_") and getattr(field, name) == field.type)
    if kind in _WHOLE:
        return st.integers(0, _WHOLE[kind])
    if kind == "TYPE_DOUBLE":
        return st.floats(allow_nan=False)
    if kind == "TYPE_BYTES":
        return st.binary(max_size=3)
    return st.booleans() if kind == "TYPE_BOOL" else st.text(max_size=3)


@st.composite
def messages_of(draw: Any, described: Any) -> Message:
    """A message of that descriptor."""
    from google.protobuf.message_factory import GetMessageClass

    if described.full_name == "google.protobuf.Duration":
        return GetMessageClass(described)(
            seconds=draw(st.integers(0, 10**6)), nanos=draw(st.sampled_from([0, 5 * 10**8]))
        )
    values = {}
    for oneof in described.oneofs:
        if len(oneof.fields) > 1 and draw(st.booleans()):
            chosen = draw(st.sampled_from(list(oneof.fields)))
            values[chosen.name] = draw(values_of(chosen))
    for field in described.fields:
        if field.containing_oneof is not None and len(field.containing_oneof.fields) > 1:
            continue
        if field.is_repeated:
            values[field.name] = draw(st.lists(values_of(field), max_size=2))
        elif draw(st.booleans()):
            values[field.name] = draw(values_of(field))
    return GetMessageClass(described)(**values)
