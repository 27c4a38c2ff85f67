"""The tokens of a model that are no words: starts and ends of texts, marks of a chat, and what takes a word's place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerFast

from ml.encoding import Encoding
from ml.spec import Span


class SpecialTokens:
    """Ids of a tokenizer's special tokens, by what they are for."""

    def __init__(self, fast: PreTrainedTokenizerFast, end_ids: Iterable[int] = ()) -> None:
        """Find those of `fast`; `end_ids` end a text too, beside its own end-of-text token."""
        own_end = () if fast.eos_token_id is None else (fast.eos_token_id,)
        self.ends = frozenset((*own_end, *end_ids))
        """Tokens that end a text."""
        self._fast = fast

    @property
    def placeholders(self) -> tuple[int, ...]:
        """The mask token and the unknown token, as far as the model has them: they stand in the place of any text.

        Many byte-level models name their end-of-text token as the unknown one, which it is not: they know every byte.
        """
        others = self.ends | {self._fast.bos_token_id, self._fast.pad_token_id}
        named = (self._fast.mask_token_id, self._fast.unk_token_id)
        return tuple(dict.fromkeys(each for each in named if each is not None and each not in others))

    @cached_property
    def controls(self) -> frozenset[int]:
        """Tokens that are commands to the model and not text: starts and ends of texts, marks of a chat's turns.

        Not all tokenizers say so of those that their chat template writes.
        """
        template = str(self._fast.chat_template or "")
        named = {self._fast.bos_token_id, self._fast.pad_token_id} - {None, self._fast.unk_token_id}
        added = self._fast.added_tokens_decoder.items()
        controls = {number for number, token in added if token.special or _is_mark(token.content, template)}
        return frozenset((controls | named | self.ends) - {*self.placeholders})

    def editable(self, encoding: Encoding) -> tuple[Span, ...]:
        """What is editable without starts and ends of text, which are no words of a prompt that spells them out."""
        around = self.ends | {self._fast.bos_token_id}
        if self._fast.pad_token_id != self._fast.unk_token_id:
            around |= {self._fast.pad_token_id}
        marks = [
            span for token_id, span in zip(encoding.ids, encoding.spans, strict=True) if span and token_id in around
        ]
        return tuple(part for region in encoding.editable for part in _outside(marks, region))


def _is_mark(text: str, template: str) -> bool:
    """Whether an added token is one of those marks by which a chat template sets messages apart."""
    mark = text.strip()
    return bool(mark) and not mark.isalnum() and mark in template


def _outside(marks: Sequence[Span], region: Span) -> Iterator[Span]:
    """What ascending `marks` leave of a region."""
    start, end = region
    for mark in marks:
        if start < min(mark[0], end):
            yield start, min(mark[0], end)
        start = max(start, mark[1])
    if start < end:
        yield start, end
