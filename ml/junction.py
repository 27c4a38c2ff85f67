"""The tokens of a text in the place where it stands, which may be others than those that it has alone.

A tokenizer may write a space before whatever text it is given, cut words by what surrounds them, and merge across any
border. So a text is tokenized together with what stands before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Encoding as RawEncoding

_OTHERS_BEFORE = ("", "\n", "a", "x", "q", ".", "0", " ")
"""Texts before which a text may be cut as in the middle of another one."""


@dataclass(frozen=True)
class Junction:
    """What follows a text.

    Attributes:
        ids: the tokens that follow, none where the text has none.
        apart: whether the tokens of the whole text are others than the first text's own and these.
    """

    ids: tuple[int, ...]
    apart: bool


def follow(
    encode: Callable[[str], RawEncoding], decode: Callable[[Sequence[int]], str], before: str, text: str, *, words: bool
) -> Junction | None:
    """The tokens that write `text` behind the tokens of `before`.

    They are those of the whole text where `before` ends between two of its tokens. Where it ends inside one, they are
    tokens that spell the same whole text, and None where there are none.

    Args:
        encode: without special tokens of the tokenizer's own.
        words: whether a token is a word whatever surrounds it, so that `text` is words of its own even where no space
            separates it from `before`.
    """
    own, whole = encode(before).ids, encode(before + text)
    ids = tuple(whole.ids[len(own) :])
    # A token for something unknown may cover both texts.
    if whole.ids[: len(own)] == own and (ids or not text.strip()):
        return Junction(ids, apart=False)
    spellings = {decode(whole.ids), decode(own) + text}
    for other in (before, *_OTHERS_BEFORE):
        ids = _behind(encode(other + text), len(other))
        if ids and (decode((*own, *ids)) in spellings or words):
            return Junction(ids, apart=not words)
    return None if encode(text).ids else Junction((), apart=False)


def _behind(raw: RawEncoding, border: int) -> tuple[int, ...]:
    """The tokens behind the character `border`; none where one of them begins before it."""
    first = next((index for index, (_, end) in enumerate(raw.offsets) if end > border), len(raw.ids))
    if first < len(raw.ids) and raw.offsets[first][0] < border:
        return ()
    return tuple(raw.ids[first:])
