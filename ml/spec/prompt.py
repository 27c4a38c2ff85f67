"""What a model reads, and what may follow it."""

from __future__ import annotations

from dataclasses import dataclass

from ml.errors import InputError
from ml.spec.checks import check_nul, check_text


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    content: str

    def __post_init__(self) -> None:
        check_text("content", self.content)


@dataclass(frozen=True)
class Prompt:
    """Text, chat messages or token ids: exactly one of the three."""

    text: str | None = None
    chat: tuple[ChatMessage, ...] | None = None
    token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.text is None) + (self.chat is None) + (self.token_ids is None) != 2:
            raise InputError("", "set exactly one of text, chat and token_ids")
        if self.text is not None:
            check_text("text", self.text)
        if self.chat is not None and not self.chat:
            raise InputError("chat.messages", "the conversation is empty; send at least one message")
        if self.token_ids is not None and not self.token_ids:
            raise InputError("token_ids.ids", "the list of token ids is empty")


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt: text or token ids, exactly one of the two and not empty."""

    text: str | None = None
    token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.token_ids is None):
            raise InputError("", "set exactly one of text and token_ids")
        if self.text is not None:
            if not self.text:
                raise InputError("text", "the continuation is empty")
            check_nul("text", self.text)
        if self.token_ids is not None and not self.token_ids:
            raise InputError("token_ids.ids", "the continuation is empty")
