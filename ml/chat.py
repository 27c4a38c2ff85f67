"""Conversations as a model's chat template writes them, and where in that text each message is."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from ml.errors import InputError
from ml.spec import ChatMessage, Span


def render(fast: PreTrainedTokenizerFast, field: str, messages: Sequence[ChatMessage]) -> str:
    """A conversation as its template writes it, with the generation prompt.

    Raises:
        InputError: the template refuses the conversation.
    """
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(fast.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise InputError(field, f"the model's chat template refuses this conversation: {error}") from error


def contents(fast: PreTrainedTokenizerFast, text: str, messages: Sequence[ChatMessage]) -> tuple[Span, ...]:
    """Where each message's content stands in the rendered `text`.

    Looking for a short content ("user") would find the template's own words first. So the template is rendered once
    more around marks that occur nowhere else, which shows what stands before each content.
    """
    marks = [f"\uf8ff{index}\uf8fe" for index in range(len(messages))]
    marked = [ChatMessage(message.role, mark) for message, mark in zip(messages, marks, strict=True)]
    try:
        frame = render(fast, "", marked)
    except InputError:  # it looks into the contents, so only their order is known
        frame = "".join(marks)
    spans: list[Span] = []
    position = 0
    for mark, message in zip(marks, messages, strict=True):
        before, found, rest = frame.partition(mark)
        if not found:
            continue  # the template leaves this message out
        frame = rest
        start = position + len(before) if text.startswith(before, position) else position
        content = message.content if text.startswith(message.content, start) else message.content.strip()
        start = text.find(content, start)
        if start >= 0:
            position = start + len(content)
            spans.append((start, position))
    return tuple(spans)
