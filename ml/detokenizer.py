"""From token ids to text: all at once, or as tokens come, with each token's place in it.

A tokenizer decodes a token differently in other company: the first one of a text may lose its space, words are joined
by spaces, and a character may take several tokens. So a token's text is the difference that it makes to the text of the
tokens before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from tokenizers import Tokenizer as Backend
from tokenizers import decoders

from ml.spec import Span

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Shown in place of bytes that are no character."""

_STAND_IN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A byte of a character that the vocabulary does not have (SentencePiece's byte fallback)."""

_SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece vocabularies write for a space."""

_CONTEXT = 4
"""The fewest tokens that decoding looks back on: one more than can begin a character without completing it."""


def _byte_alphabet() -> dict[str, int]:
    """The bytes that the characters of byte-level tokens stand for (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_alphabet()


class Detokenizer:
    """The texts of token ids, special tokens included."""

    def __init__(self, backend: Backend) -> None:
        """Decode as `backend` does."""
        self._backend = backend
        state: bytes = b"" if backend.decoder is None else backend.decoder.__getstate__()
        self._is_byte_level = b'"ByteLevel"' in state
        self._has_stand_ins = b'"ByteFallback"' in state
        # What WordPiece writes before a token that goes on with a word.
        self._continuing = backend.decoder.prefix if isinstance(backend.decoder, decoders.WordPiece) else ""
        self._texts: dict[int, str] = {}
        self._bytes: dict[int, bytes] = {}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; each longest piece of a character that is not completed is one U+FFFD.

        The `tokenizers` library gives up a whole run of stand-ins for one that is not valid: the characters before it
        would change with a token that comes later.
        """
        text = str(self._backend.decode(list(ids), skip_special_tokens=False))
        if self._has_stand_ins and REPLACEMENT in text:
            named = [token for token_id in ids if (token := self._backend.id_to_token(token_id)) is not None]
            text = str(self._backend.decoder.decode(list(_without_broken(named))))
        return text

    def is_named(self, token_id: int) -> bool:
        """Whether the tokenizer has this id, which a model may have without it: such a token has no text."""
        return bool(self._backend.id_to_token(token_id))

    def token_text(self, token_id: int) -> str:
        """One token as a reader sees it; see `Tokenizer.token_text`."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._text_of(token_id)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that one token writes; see `Tokenizer.token_bytes`."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._bytes_of(token_id)
        return found

    def written(self, ids: Sequence[int], before: Sequence[int] = ()) -> tuple[str, tuple[Span | None, ...]]:
        """The text of `ids` behind the tokens `before`, and each one's place in it; see `Tokenizer.written`."""
        text = ""
        spans: list[Span | None] = []
        decoder = IncrementalDecoder(self, before)
        for token_id in ids:
            mid_character = decoder.ends_mid_character
            added = decoder.push(token_id)
            end = len(text) + len(added) + decoder.ends_mid_character
            # Word-level decoders put a space between tokens that is no part of either.
            space = len(added) > 1 and added[0] == " " != self.token_text(token_id)[:1]
            # A character that was begun may turn out to be none, and then this token begins another.
            broken = mid_character and added[:1] == REPLACEMENT and len(text) + 1 < end
            span = (len(text) + (space or broken), end)
            spans.append(span if span[0] < span[1] else None)
            text += added
        return text + decoder.rest(), tuple(spans)

    def ends_mid_character(self, ids: Sequence[int]) -> bool:
        """Whether the text of `ids`, all of them named, ends inside a character."""
        data = b"".join(map(self.token_bytes, ids[-_CONTEXT:]))
        return any(error.reason == "unexpected end of data" for error in _errors(data))

    def _text_of(self, token_id: int) -> str:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return f"<{token_id}>"
        # Decoding a token alone would drop the space that it begins with.
        if token.startswith(_SPACE_MARK):
            return str(token.replace(_SPACE_MARK, " "))
        if self._has_stand_ins and (stand_in := _STAND_IN.fullmatch(token)):
            return bytes.fromhex(stand_in[1]).decode(errors="replace")
        return self.decode([token_id])

    def _bytes_of(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if self._is_byte_level:
            known = all(character in _BYTES for character in token)
            return bytes(_BYTES[character] for character in token) if known else str(token).encode()
        if self._has_stand_ins and (stand_in := _STAND_IN.fullmatch(token)):
            return bytes.fromhex(stand_in[1])
        return self.token_text(token_id).removeprefix(self._continuing).encode()


def _errors(data: bytes) -> Iterator[UnicodeDecodeError]:
    """What in `data` is no UTF-8, each counted from behind the one before.

    (Python's incremental decoder would do, but waits for more after the bytes of half a surrogate pair.)
    """
    while data:
        try:
            data.decode()
        except UnicodeDecodeError as error:
            yield error
            data = data[error.end :]
        else:
            return


def _without_broken(tokens: Sequence[str]) -> Iterator[str]:
    """`tokens` with U+FFFD in place of the stand-ins that make no character."""
    for are_stand_ins, group in groupby(tokens, lambda token: bool(_STAND_IN.fullmatch(token))):
        run = list(group)
        for error in _errors(bytes(int(token[3:5], 16) for token in run) if are_stand_ins else b""):
            yield from run[: error.start]
            yield REPLACEMENT
            run = run[error.end :]
        yield from run


class IncrementalDecoder:
    """Text of tokens as they come, each character once and whole."""

    def __init__(self, detokenizer: Detokenizer, before: Sequence[int] = ()) -> None:
        """Decode what follows the tokens `before`. A character that they begin counts as what follows."""
        self._detokenizer = detokenizer
        self._ids: list[int] = []
        for token_id in reversed(before):
            if len(self._ids) == _CONTEXT:
                break
            if detokenizer.is_named(token_id):
                self._ids.insert(0, token_id)
        self.ends_mid_character = False
        """Whether a character is not complete yet."""
        self._certain = ""  # the text of these tokens, but a last character that is not complete
        self._read()

    def push(self, token_id: int) -> str:
        """The text that became certain with `token_id`: all of it but a last character that is not complete."""
        if not self._detokenizer.is_named(token_id):
            return ""
        if len(self._ids) >= 3 * _CONTEXT:
            del self._ids[:-_CONTEXT]
            self._read()
        known = len(self._certain)
        self._ids.append(token_id)
        self._read()
        return self._certain[known:]

    def rest(self) -> str:
        """The text of a last character that is not complete, once nothing more can come."""
        return REPLACEMENT if self.ends_mid_character else ""

    def _read(self) -> None:
        text = self._detokenizer.decode(self._ids)
        self.ends_mid_character = text.endswith(REPLACEMENT) and self._detokenizer.ends_mid_character(self._ids)
        self._certain = text[:-1] if self.ends_mid_character else text
