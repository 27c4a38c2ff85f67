"""Between text and token ids, with every token's place in the text.

Offsets count Unicode code points. A token's span covers its text, the space before a word included where the token
holds it. A character that takes several tokens (an emoji in byte-level BPE) gives each of them its whole span. A space
that the tokenizer adds before a text stands nowhere in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise

from tokenizers import Encoding as RawEncoding
from tokenizers.processors import PostProcessor
from transformers import PreTrainedTokenizerFast

from ml import chat
from ml.detokenizer import Detokenizer, IncrementalDecoder
from ml.encoding import Encoding
from ml.errors import InputError, NoChatTemplateError, PromptTooLongError
from ml.junction import Junction, spell, split
from ml.long_text import least_tokens
from ml.result import Token
from ml.spec import ChatMessage, Continuation, Prompt, Span, check_ids
from ml.special_tokens import SpecialTokens

_REACH = 64
"""Characters before a text that decide how it is cut; looking at more would take a long prompt's features seconds."""


class Tokenizer:
    """A model's tokenizer, with the checks that every prompt needs."""

    def __init__(
        self,
        fast: PreTrainedTokenizerFast,
        context_length: int,
        *,
        vocabulary_size: int | None = None,
        end_ids: Iterable[int] = (),
        model: str = "",
    ) -> None:
        """Wrap `fast`.

        Args:
            fast: whatever `AutoTokenizer` gives; truncation and padding are switched off in it.
            context_length: the longest prompt, in tokens.
            vocabulary_size: ids that the model knows, which may be more than the tokenizer has. Default: the same.
            end_ids: tokens that end a text, beside the tokenizer's own end-of-text token.
            model: the model's name, for errors.
        """
        self.context_length = context_length
        self.vocabulary_size = len(fast) if vocabulary_size is None else vocabulary_size
        self.special = SpecialTokens(fast, end_ids)
        self._fast = fast
        self._model = model
        self._backend = fast.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        if self._backend.post_processor is not None:
            self._backend.post_processor = _with_whole_offsets(self._backend.post_processor)
        self._detokenizer = Detokenizer(self._backend)

    @property
    def mask_token(self) -> tuple[int, str] | None:
        """Id and text of the mask token, else of the unknown token; None where the model has neither."""
        return next(((token_id, self.token_text(token_id)) for token_id in self.special.placeholders), None)

    @property
    def has_chat_template(self) -> bool:
        """Whether prompts may be chat messages."""
        return self._fast.chat_template is not None

    def encode(self, prompt: Prompt) -> Encoding:
        """Turn a prompt into tokens.

        Text gets the special tokens that the tokenizer adds by itself; a chat gets those of its template, and token ids
        none.

        Raises:
            InputError: an id outside the vocabulary, a text without tokens, a chat that the template refuses.
            PromptTooLongError: more tokens than the context.
            NoChatTemplateError: chat messages for a model without a template.
        """
        if prompt.text is not None:
            field = "prompt.text"
            encoding = self._encode_text(field, prompt.text, special=True)
        elif prompt.chat is not None:
            field = "prompt.chat.messages"
            encoding = self._encode_chat(field, prompt.chat)
        else:
            return self._encode_ids(self._checked_ids(prompt.token_ids or ()))
        if len(encoding.ids) > self.context_length:
            raise PromptTooLongError(field, len(encoding.ids), self.context_length)
        return encoding

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """`encode(prompt).ids`, without decoding what came as ids, which takes longer than everything else.

        Raises:
            InputError: as `encode`.
        """
        if prompt.text is not None or prompt.chat is not None:
            return self.encode(prompt).ids
        return self._checked_ids(prompt.token_ids or ())

    def continuation(self, prompt: Encoding, continuation: Continuation) -> Junction:
        """The tokens that continue a prompt.

        Text is tokenized together with the prompt's. Where the prompt ends inside a token of the two, that token is the
        first that follows, and the prompt's own last tokens are left out. Tokens that are words are those of the text
        alone.

        Raises:
            InputError: an id outside the vocabulary, a text without tokens, or no token before the one that the prompt
                ends in.
        """
        if continuation.token_ids is not None:
            check_ids("continuation.token_ids.ids", continuation.token_ids, self.vocabulary_size)
            return Junction(prompt, continuation.token_ids)
        field, text = "continuation.text", continuation.text or ""
        if self._has_words:
            self.check_length(field, text)
            found = Junction(prompt, self.ids(text))
        elif not prompt.text:  # ids that write nothing
            self.check_length(field, text)
            encode = partial(self._raw, special=False)
            found = Junction(prompt, spell(encode, self.decode, "", text, own=prompt.ids, words=False) or ())
        else:
            whole = self._encode_text(field, prompt.text + text, special=prompt.has_special)
            is_given = not prompt.has_special and self._encode_text(field, prompt.text, special=False).ids != prompt.ids
            found = split(prompt, whole, is_given=is_given)
        if not found.ids:
            raise InputError(field, f"{text!r} has no tokens in this model")
        if not found.prompt.ids:
            raise InputError(
                field,
                f"the prompt is part of the first token of the whole text, {self.token_text(found.ids[0])!r}, and none"
                " comes before it; let the prompt end between two words",
            )
        check_ids(field, found.ids, self.vocabulary_size)
        return found

    def prompt_and_continuation(self, prompt: Prompt, continuation: Continuation) -> Junction:
        """As `continuation` of `encode(prompt)`, without the text of a prompt whose continuation is token ids.

        Raises:
            InputError: as `encode` and `continuation`.
        """
        if continuation.token_ids is None:
            return self.continuation(self.encode(prompt), continuation)
        ids = self.prompt_ids(prompt)
        return self.continuation(Encoding("", ids, (None,) * len(ids), ()), continuation)

    def check_length(self, field: str, text: str) -> None:
        """Refuse a text that cannot fit the context, in time that does not grow with it.

        Raises:
            InputError: it is no text.
            PromptTooLongError: it has more tokens than the context; the error says how many it has at least.
        """
        _check_unicode(field, text)
        tokens = least_tokens(lambda some: len(self.ids(some)), text, self.context_length)
        if tokens is not None:
            limit = self.context_length
            message = f"the text has more than {tokens} tokens and this model reads at most {limit}; shorten it"
            raise PromptTooLongError(field, tokens, limit, message)

    def replacement(self, encoding: Encoding, position: int, text: str) -> tuple[int, ...] | None:
        """The tokens of `text` in the place of the token at `position`, after the white space that it begins with.

        A text with white space of its own gets no other. None where no tokens write it there; empty where it has none.
        """
        start, end = encoding.spans[position] or (0, 0)
        old = encoding.text[start:end]
        space = "" if text[:1].isspace() else old[: len(old) - len(old.lstrip())]
        before = encoding.text[max(0, start - _REACH) : start]
        added = encoding.ids[position - 1 : position] if self._follows_added_space(encoding, position) else None
        encode = partial(self._raw, special=False)
        return spell(encode, self.decode, before, space + text, own=added, words=self._has_words)

    def ids(self, text: str) -> tuple[int, ...]:
        """The tokens of `text` alone, without special tokens of the tokenizer's own."""
        return tuple(self._raw(text, special=False).ids)

    def token_text(self, token_id: int) -> str:
        """One token as a reader sees it: leading space included, U+FFFD for a part of a character.

        An id that the model has but the tokenizer does not name is shown as ``<id>``.
        """
        return self._detokenizer.token_text(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that one token writes: those of its text, or part of a character where it holds only that.

        Empty for an id that the model has but the tokenizer does not name. Joined over the tokens of a text they give
        the text, as far as the tokenizer keeps it: tokens that are words lack the spaces between them.
        """
        return self._detokenizer.token_bytes(token_id)

    def token(self, token_id: int, span: Span | None = None) -> Token:
        """A token, and where it stands, as results and replies carry it."""
        return Token(token_id, self.token_text(token_id), span, self.token_bytes(token_id))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included; see `Detokenizer.decode`."""
        return self._detokenizer.decode(ids)

    def decoder(self, before: Sequence[int] = ()) -> IncrementalDecoder:
        """A decoder of the tokens that follow `before`."""
        return IncrementalDecoder(self._detokenizer, before)

    def has_start(self, encoding: Encoding) -> bool:
        """Whether a prompt begins with the start token that the tokenizer puts before every text."""
        return self._start is not None and encoding.ids[:1] == self._start[:1]

    def written(self, ids: Sequence[int], before: Sequence[int] = ()) -> tuple[str, tuple[Span | None, ...]]:
        """The text that `ids` write behind the tokens `before`, and each token's place in it.

        A token's span covers every character that it has a part in; None for one that writes nothing.
        """
        return self._detokenizer.written(ids, before)

    def tokens(self, encoding: Encoding) -> tuple[Token, ...]:
        """The tokens of a prompt, as results and replies carry them."""
        return tuple(map(self.token, encoding.ids, encoding.spans))

    @property
    def _has_words(self) -> bool:
        """Whether each token is a word: what decodes them joins them by spaces."""
        return self._backend.decoder is None

    @cached_property
    def _start(self) -> tuple[int, str] | None:
        """The start token that is put before every text, and how a text spells it out; None where there is none."""
        raw = self._raw("a", special=True)
        if len(raw.ids) < 2 or not raw.special_tokens_mask[0]:
            return None
        text = str(self._backend.id_to_token(raw.ids[0]))
        return (raw.ids[0], text) if self.ids(text) == (raw.ids[0],) else None

    def _spelled_start(self, text: str) -> int:
        """How many characters of `text` spell the start token out that it would get anyway."""
        return len(self._start[1]) if self._start is not None and text.startswith(self._start[1]) else 0

    def _raw(self, text: str, *, special: bool) -> RawEncoding:
        return self._backend.encode(text, add_special_tokens=special)

    def _encode_text(self, field: str, text: str, *, special: bool) -> Encoding:
        self.check_length(field, text)
        spelled = self._spelled_start(text) if special else 0
        raw = self._raw(text[spelled:], special=special)
        if not raw.ids:
            raise InputError(field, "the text has no tokens in this model; send other text")
        check_ids(field, raw.ids, self.vocabulary_size)
        spans = [(spelled + start, spelled + end) if start < end else None for start, end in raw.offsets]
        for position in self._added_spaces(text, raw.ids, spans):
            spans[position] = None
        if spelled:  # it takes the place of the one that is added
            spans[0] = (0, spelled)
        encoding = Encoding(text, tuple(raw.ids), tuple(spans), ((0, len(text)),), special)
        return replace(encoding, editable=self.special.editable(encoding))

    def _follows_added_space(self, encoding: Encoding, position: int) -> bool:
        """Whether the token before the one at `position` is a space that the tokenizer added."""
        before = position - 1
        return before >= 0 and encoding.spans[before] is None and self.token_text(encoding.ids[before]).isspace()

    def _added_spaces(self, text: str, ids: Sequence[int], spans: Sequence[Span | None]) -> list[int]:
        """The positions of spaces that the tokenizer added: each has the place of a token that it is no part of."""
        return [
            position
            for position, (span, after) in enumerate(pairwise(spans))
            if span is not None
            and after is not None
            and span[0] == after[0]
            and self.token_text(ids[position]).isspace()
            and (
                self.token_text(ids[position]) != text[slice(*span)]
                or self.token_text(ids[position + 1]) == text[slice(*after)]
            )
        ]

    def _encode_chat(self, field: str, messages: Sequence[ChatMessage]) -> Encoding:
        if not self.has_chat_template:
            raise NoChatTemplateError(self._model)
        text = chat.render(self._fast, field, messages)
        encoding = self._encode_text(field, text, special=False)
        written = replace(encoding, editable=chat.contents(self._fast, text, messages))
        return replace(written, editable=self.special.editable(written))

    def _checked_ids(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The ids of a prompt, before they are decoded, which takes longer."""
        check_ids("prompt.token_ids.ids", ids, self.vocabulary_size)
        if len(ids) > self.context_length:
            raise PromptTooLongError("prompt.token_ids.ids", len(ids), self.context_length)
        return ids

    def _encode_ids(self, ids: tuple[int, ...]) -> Encoding:
        text, spans = self.written(ids)
        encoding = Encoding(text, ids, spans, ((0, len(text)),))
        return replace(encoding, editable=self.special.editable(encoding))


def _with_whole_offsets(processor: PostProcessor) -> PostProcessor:
    """`processor`, with offsets that keep the space that a byte-level token begins with.

    The `tokenizers` library trims that space from the offset, not from the token. Its processors nest, and have no
    common setter for this; their state is JSON.
    """
    state: bytes = processor.__getstate__()
    processor.__setstate__(state.replace(b'"trim_offsets":true', b'"trim_offsets":false'))
    return processor


def _check_unicode(field: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(field, f"the text holds half a surrogate pair at position {error.start}; remove it") from error
