"""A prompt's tokens, and where each stands in its text."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ml.spec import Span


@dataclass(frozen=True)
class Encoding:
    """A prompt's tokens.

    Attributes:
        text: what the spans count in: the prompt's own text, the rendered chat, or the decoded token ids.
        ids: the tokens, with the special tokens that the model reads.
        spans: each token's place in `text`; None for one that stands nowhere in it.
        editable: the parts of `text` that the user wrote, in order, without starts and ends of text: all of it, or the
            contents of a chat's messages.
        has_special: whether the tokenizer's own special tokens were added, as they are to text.
    """

    text: str
    ids: tuple[int, ...]
    spans: tuple[Span | None, ...]
    editable: tuple[Span, ...]
    has_special: bool = False

    def first(self, count: int) -> Encoding:
        """The same text with its first `count` tokens only."""
        return replace(self, ids=self.ids[:count], spans=self.spans[:count])
