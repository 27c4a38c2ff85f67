"""What is asked: what makes two questions the same, and what tells them apart at a glance."""

from __future__ import annotations

import hashlib

from gloss import v1 as pb

PREVIEW_CHARACTERS = 200


def named(spec: pb.ExplanationSpec, model: str) -> pb.ExplanationSpec:
    """The spec with the model's name spelled out: an empty one, for the default model, asks the same question."""
    spelled_out = pb.ExplanationSpec()
    spelled_out.CopyFrom(spec)
    spelled_out.model = model
    return spelled_out


def spec_hash(spec: pb.ExplanationSpec, model: pb.ModelVersion) -> str:
    """What equal questions to equal models have in common, in hexadecimal."""
    question = named(spec, model.name).SerializeToString(deterministic=True)
    return hashlib.sha256(model.digest.encode() + b"\0" + question).hexdigest()


def method(spec: pb.ExplanationSpec) -> str:
    """The name of the method's field: ``kernel_shap``. Empty where none is set."""
    return spec.WhichOneof("method") or ""


def preview(spec: pb.ExplanationSpec) -> str:
    """The first characters of the prompt, or of a conversation's last message; empty for token ids."""
    messages = spec.prompt.chat.messages
    text = messages[-1].content if messages else spec.prompt.text
    return text[:PREVIEW_CHARACTERS]
