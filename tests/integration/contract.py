"""The contract's methods by their descriptors, so that a test of all of them cannot forget a new one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import grpc
from google.api import resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

import gloss.v1


def methods() -> list[MethodDescriptor]:
    """Every method of every service of the package."""
    modules = (
        importlib.import_module(f"gloss.v1.{module.name}")
        for module in pkgutil.iter_modules(gloss.v1.__path__)
        if module.name.endswith("_pb2")
    )
    services = (service for module in modules for service in module.DESCRIPTOR.services_by_name.values())
    return [method for service in services for method in service.methods]


def messages(message: Descriptor, seen: set[str] | None = None) -> Iterator[Descriptor]:
    """A message and all that it can hold."""
    seen = set() if seen is None else seen
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    yield message
    for field in message.fields:
        if field.message_type is not None:
            yield from messages(field.message_type, seen)


def is_resource(message: Descriptor) -> bool:
    """Whether a message is a resource: something that is stored, and has a name."""
    return bool(message.GetOptions().Extensions[resource_pb2.resource].type)


def references(method: MethodDescriptor) -> list[FieldDescriptor]:
    """The fields of a method's request that name resources."""
    return [
        field
        for field in method.input_type.fields
        if field.GetOptions().Extensions[resource_pb2.resource_reference].type
    ]


def tells(method: MethodDescriptor) -> bool:
    """Whether a method's reply holds resources."""
    return any(is_resource(message) for message in messages(method.output_type))


def resources(message: Message) -> Iterator[Message]:
    """The resources that a message holds."""
    if is_resource(message.DESCRIPTOR):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for part in value if field.is_repeated else [value]:
                yield from resources(part)


def ask(channel: grpc.Channel, method: MethodDescriptor, request: Message, key: str | None = None) -> Any:
    """The reply, or a stream's first."""
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    metadata = [("authorization", f"Bearer {key}")] if key else []
    reply = call(request, metadata=metadata, timeout=20)
    if not method.server_streaming:
        return reply
    first = next(reply)
    reply.cancel()
    return first


def request_of(method: MethodDescriptor, **fields: Any) -> Message:
    """A request of the method with these fields."""
    return GetMessageClass(method.input_type)(**fields)
