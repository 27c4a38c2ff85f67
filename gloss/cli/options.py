"""Options that are derived from the contract: one for each field of a message, with the contract's comment as its help.

What was not given is not sent, so that no default is written down here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import click
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from gloss import v1
from gloss.cli.session import INT32, TEXT
from gloss.durations import duration
from gloss.v1.comments import COMMENTS
from gloss.values import enum_names

Command = TypeVar("Command", bound=Callable[..., Any])

_UINT64 = click.IntRange(0, 2**64 - 1)


class _Seconds(click.ParamType[Duration]):
    """A length of time: 2.5."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Duration:
        """The contract's message."""
        try:
            return duration(value if isinstance(value, Duration) else float(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_SECONDS = _Seconds()


def with_fields(
    *messages: Any, leaving: Iterable[str] = (), refused: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Give a command an option for each field of some messages, under the field's name.

    A field that several messages have is one option.

    Args:
        leaving: fields that have another way to be given.
        refused: values that enumerations have and these messages do not take.
    """
    owners: dict[str, list[Any]] = {}
    for message in messages:
        for field in message.DESCRIPTOR.fields:
            if field.name not in leaving:
                owners.setdefault(field.name, []).append(field)

    def decorate(command: Command) -> Command:
        for fields in reversed(owners.values()):
            command = _option(fields, refused)(command)
        return command

    return decorate


def method_messages(spec: Any) -> Mapping[str, Any]:
    """The messages of the methods of `ExplanationSpec` or `StudySpec`, by the methods' names."""
    fields = spec.DESCRIPTOR.oneofs_by_name["method"].fields
    return {field.name.replace("_", "-"): type(getattr(spec(), field.name)) for field in fields}


def parameters_of(message: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given and are fields of a message.

    Raises:
        click.UsageError: one of `options` was given that is none.
    """
    known = message.DESCRIPTOR.fields_by_name
    chosen = {name: value for name, value in options.items() if value is not None}
    if stray := [name for name in chosen if name not in known]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in stray)
        raise click.UsageError(f"{flags}: {message.DESCRIPTOR.name} has no such parameter")
    return chosen


def _option(fields: list[Any], refused: Collection[str]) -> Callable[[Command], Command]:
    """The option of a field that one or several messages have."""
    [name] = {field.name for field in fields}
    flag = f"--{name.replace('_', '-')}"
    if fields[0].type == FieldDescriptor.TYPE_BOOL:
        flag = f"{flag}/--no-{name.replace('_', '-')}"
    unit = "SECONDS" if fields[0].message_type is not None else None
    return click.option(flag, name, type=_type(fields[0], refused), default=None, metavar=unit, help=_help(fields))


def _type(field: Any, refused: Collection[str]) -> Any:
    if field.enum_type is not None:
        return click.Choice([name for name in enum_names(field.enum_type) if name not in refused])
    if field.message_type is not None:  # a duration: the only message that is an option
        return _SECONDS
    return {
        FieldDescriptor.TYPE_INT32: INT32,
        FieldDescriptor.TYPE_UINT64: _UINT64,
        FieldDescriptor.TYPE_DOUBLE: float,
        FieldDescriptor.TYPE_BOOL: bool,
        FieldDescriptor.TYPE_STRING: TEXT,
    }[field.type]


def _help(fields: list[Any]) -> str:
    """The contract's comments, each with the methods that it is about, where the field is a method's."""
    methods = {kind.DESCRIPTOR.full_name: name for name, kind in method_messages(v1.ExplanationSpec).items()}
    helps: dict[str, list[str]] = {}
    for field in fields:
        owner = field.containing_type
        text = COMMENTS[f"{owner.name}.{field.name}"]
        if field.enum_type is not None:  # its values as the option takes them
            for name in enum_names(field.enum_type):
                text = re.sub(rf"\b{name.upper().replace('-', '_')}\b", name, text)
        helps.setdefault(text, []).append(methods.get(owner.full_name, ""))
    return " ".join(f"[{', '.join(names)}] {text}" if any(names) else text for text, names in helps.items())
