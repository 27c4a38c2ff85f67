"""Conversion between a message of the contract and a dataclass of `ml`, derived from what the two declare.

A field of the message is the dataclass's field of the same name, and

- a scalar is itself. One that is absent takes the dataclass's default, which may be None;
- an enum is an `Enum` whose members have the values' names; UNSPECIFIED is the default;
- a message is a dataclass, or a tuple of its numbers in order (`CharacterSpan`); a `Duration` is a float, in seconds;
- what is repeated is a tuple; so is a message of one repeated field, which stands for its list (`TokenIds`);
- a oneof is a field of its name that holds one of several dataclasses, called as the messages; or it is one optional
  field for each member.

A codec is made once for a pair, and refuses to be made where one side has a field, a member or a value that the other
lacks. So neither can be changed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ml.errors import InputError

M = TypeVar("M", bound=Message)
T = TypeVar("T")

Reader = Callable[[Any], Any]
"""From a value of the contract to a value of `ml`. An `InputError` blames a field relative to the value."""
Writer = Callable[[Any], Any]
"""The way back."""

_NANOSECONDS = 1_000_000_000
_ABSENT = object()
"""What UNSPECIFIED is read as."""


class MismatchError(TypeError):
    """The contract and `ml` do not say the same."""


class _Part(NamedTuple):
    """A field of the message, and how its value is converted."""

    name: str
    read: Reader
    write: Writer
    required: bool
    """Whether the dataclass has no default for it."""
    always: bool
    """Whether it is read also where it is not set: it cannot be absent, or an empty message takes its place."""


@dataclass(frozen=True)
class _Choice:
    """A oneof that is one field of the dataclass."""

    name: str
    members: Mapping[str, Codec[Any, Any]]
    """By the field that holds them."""
    required: bool


class Codec(Generic[M, T]):
    """Converts messages of one kind to a dataclass, and back."""

    def __init__(self, message: type[M], kind: type[T]) -> None:
        """Pair a message with a dataclass.

        Raises:
            MismatchError: one of them says what the other does not.
        """
        self.message = message
        self.kind = kind
        descriptor: Any = message.DESCRIPTOR
        hints = {name: _plain(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}
        without_default = _without_default(kind)
        unions = [oneof for oneof in descriptor.oneofs if oneof.name in hints]
        oneof_fields = {field.name for oneof in unions for field in oneof.fields}
        alone = [field for field in descriptor.fields if field.name not in oneof_fields]
        _same(f"fields of {descriptor.name} and {kind.__name__}", [*alone, *unions], hints)
        self._choices = [
            _Choice(oneof.name, _members(oneof, hints[oneof.name]), oneof.name in without_default) for oneof in unions
        ]
        self._parts = [_part(field, hints[field.name], field.name in without_default) for field in alone]

    def read(self, message: M, path: str = "") -> T:
        """The dataclass of a message; what is absent has the dataclass's default.

        Args:
            path: where the message sits in the request, for errors.

        Raises:
            InputError: a value is not allowed, or something is missing.
        """
        values: dict[str, Any] = {}
        name = ""  # Of what is being read. Paths are made of names where there is an error, and only there.
        try:
            for name, read, _, required, always in self._parts:
                value = read(getattr(message, name)) if always or message.HasField(name) else _ABSENT
                if value is not _ABSENT:
                    values[name] = value
                elif required:
                    raise InputError("", "must be set")
            for choice in self._choices:
                name = choice.name
                chosen = message.WhichOneof(name)
                if chosen is not None:
                    name = chosen
                    values[choice.name] = choice.members[chosen].read(getattr(message, chosen))
                elif choice.required:
                    raise InputError("", f"set exactly one of {', '.join(choice.members)}")
            name = ""
            return self.kind(**values)
        except InputError as error:
            error.field = _join(path, _join(name, error.field))
            raise

    def write(self, value: T) -> M:
        """The message of a dataclass; what is None is absent."""
        values = {
            part.name: part.write(given) for part in self._parts if (given := getattr(value, part.name)) is not None
        }
        for choice in self._choices:
            given = getattr(value, choice.name)
            values |= {name: codec.write(given) for name, codec in choice.members.items() if type(given) is codec.kind}
        return self.message(**values)


_made: dict[tuple[str, type], Codec[Any, Any]] = {}


def codec(message: type[M], kind: type[T]) -> Codec[M, T]:
    """The codec of a pair, made once."""
    key = (message.DESCRIPTOR.full_name, kind)
    if key not in _made:
        _made[key] = Codec(message, kind)
    return _made[key]


def _part(field: FieldDescriptor, hint: Any, required: bool) -> _Part:
    always = not field.has_presence or (required and field.message_type is not None)
    return _Part(field.name, *_field(field, hint), required, always)


def _field(field: FieldDescriptor, hint: Any) -> tuple[Reader, Writer]:
    if not field.is_repeated:
        return _one(field, hint)
    return _many(*_one(field, _element(field, hint)))


def _one(field: FieldDescriptor, hint: Any) -> tuple[Reader, Writer]:
    """How a single value is converted."""
    if field.enum_type is not None:
        return _enum(field.enum_type, hint)
    kind = field.message_type
    if kind is None:
        return _itself, _itself
    if kind.full_name == Duration.DESCRIPTOR.full_name:
        return _seconds, _duration
    if get_origin(hint) is tuple:
        return _list(kind, hint) if get_args(hint)[-1] is Ellipsis else _tuple(kind, hint)
    if not (isinstance(hint, type) and is_dataclass(hint)):
        raise MismatchError(f"{field.full_name} is a message, and {hint} is none")
    inner: Codec[Any, Any] = codec(GetMessageClass(kind), hint)
    return inner.read, inner.write


def _many(read: Reader, write: Writer) -> tuple[Reader, Writer]:
    """How several values are converted, of which each is by `read` and `write`."""
    if read is _itself:  # A prompt may have a million token ids: no work of ours for each of them.
        return tuple, _itself

    def read_all(values: Iterable[Any]) -> tuple[Any, ...]:
        found: list[Any] = []  # As many as came before the one that an error is about.
        try:
            for value in values:
                found.append(read(value))
        except InputError as error:
            error.field = _join(f"[{len(found)}]", error.field)
            raise
        return tuple(found)

    return read_all, lambda values: [write(value) for value in values]


def _list(kind: Descriptor, hint: Any) -> tuple[Reader, Writer]:
    """A message that is there for its one repeated field, which a oneof cannot hold otherwise."""
    if len(kind.fields) != 1 or not kind.fields[0].is_repeated:
        raise MismatchError(f"{kind.name} is more than a list")
    [field], message = kind.fields, GetMessageClass(kind)
    read, write = _field(field, hint)

    def unwrap(value: Any) -> Any:
        try:
            return read(getattr(value, field.name))
        except InputError as error:
            error.field = _join(field.name, error.field)
            raise

    return unwrap, lambda values: message(**{field.name: write(values)})


def _tuple(kind: Descriptor, hint: Any) -> tuple[Reader, Writer]:
    names, message = [field.name for field in kind.fields], GetMessageClass(kind)
    if len(names) != len(get_args(hint)) or any(field.message_type for field in kind.fields):
        raise MismatchError(f"{kind.name} is not so many numbers as {hint}")

    def unpack(value: Any) -> Any:
        return tuple(getattr(value, name) for name in names)

    return unpack, lambda values: message(**dict(zip(names, values, strict=True)))


def _enum(described: EnumDescriptor, hint: Any) -> tuple[Reader, Writer]:
    if not (isinstance(hint, type) and issubclass(hint, Enum)):
        raise MismatchError(f"{described.name} is an enum, and {hint} is none")
    unspecified = described.values_by_number[0].name
    prefix = unspecified.removesuffix("UNSPECIFIED")
    names = {value.number: value.name.removeprefix(prefix) for value in described.values if value.number}
    _same(f"values of {described.name} and {hint.__name__}", names.values(), hint.__members__)
    meanings = {number: hint[name] for number, name in names.items()}
    numbers = {meaning: number for number, meaning in meanings.items()}

    def read(number: int) -> Any:
        if number == 0:
            return _ABSENT
        if number not in meanings:  # enums are open on the wire: a client of a newer contract may send any number
            raise InputError("", f"{number} is not a value that this version knows")
        return meanings[number]

    return read, numbers.__getitem__


def _members(oneof: OneofDescriptor, hint: Any) -> dict[str, Codec[Any, Any]]:
    """The dataclasses of a union, by the member of the oneof that holds them."""
    kinds = {kind.__name__: kind for kind in (get_args(hint) or (hint,))}
    messages = {field.name: field.message_type for field in oneof.fields if field.message_type is not None}
    _same(f"members of {oneof.full_name}", messages.values(), kinds)
    return {name: codec(GetMessageClass(message), kinds[message.name]) for name, message in messages.items()}


def _itself(value: Any) -> Any:
    """A scalar is the same on both sides."""
    return value


def _seconds(value: Duration) -> float:
    """A length of time in seconds.

    Raises:
        InputError: protobuf calls it invalid, so that whoever is sent it could not write it as JSON.
    """
    if abs(value.nanos) >= _NANOSECONDS or value.seconds * value.nanos < 0:
        raise InputError("", "seconds and nanos must have the same sign, and nanos be less than a second")
    return value.seconds + value.nanos / _NANOSECONDS


def _duration(seconds: float) -> Duration:
    nanoseconds = round(seconds * _NANOSECONDS)
    return Duration(seconds=nanoseconds // _NANOSECONDS, nanos=nanoseconds % _NANOSECONDS)


def _without_default(kind: Any) -> set[str]:
    return {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}


def _plain(hint: Any) -> Any:
    """A type without its marks and without None."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        return kinds[0] if len(kinds) == 1 else Union[tuple(kinds)]  # noqa: UP007 - of types known only here
    return hint


def _element(field: FieldDescriptor, hint: Any) -> Any:
    if get_origin(hint) is not tuple:
        raise MismatchError(f"{field.full_name} is repeated, and {hint} is no tuple")
    return get_args(hint)[0]


def _same(what: str, ours: Iterable[Any], theirs: Iterable[str]) -> None:
    contract = {each if isinstance(each, str) else each.name for each in ours}
    if alone := contract ^ set(theirs):
        raise MismatchError(f"{what} differ: {', '.join(sorted(alone))}")


def _join(path: str, name: str) -> str:
    """The path of `name` below `path`; an index, such as ``[2].text``, goes without a dot."""
    return f"{path}.{name}" if path and name and name[0] != "[" else path + name
