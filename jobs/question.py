"""What is asked: what makes two questions the same, and what distinguishes them at a glance."""

from __future__ import annotations

import copy
import hashlib

from gloss import v1 as pb
from jobs.record import Question, pack

PREVIEW_CHARACTERS = 200


def named(question: Question, model: str) -> Question:
    """The question with the model's name spelled out: an empty one, for the default model, asks the same."""
    spelled_out = copy.deepcopy(question)
    spelled_out.model = model
    return spelled_out


def spec_hash(question: Question, model: pb.ModelVersion) -> str:
    """What equal questions to equal models have in common, in hexadecimal."""
    asked = pack("spec", named(question, model.name))
    return hashlib.sha256(model.digest.encode() + b"\0" + asked).hexdigest()


def method(question: Question) -> str:
    """The name of the method's field: ``kernel_shap``. Empty where none is set."""
    return question.WhichOneof("method") or ""


def preview(question: Question) -> str:
    """The first characters of the prompt, of a conversation's last message, or of a study's first text.

    Empty for token ids.
    """
    if isinstance(question, pb.ExplanationSpec):
        text = _text(question.prompt)
    elif question.HasField("bias_probe"):
        text = next(iter(question.bias_probe.templates), "")
    else:
        text = _text(next(iter(question.global_surrogate.prompts), pb.Prompt()))
    return text[:PREVIEW_CHARACTERS]


def _text(prompt: pb.Prompt) -> str:
    messages = prompt.chat.messages
    return messages[-1].content if messages else prompt.text
