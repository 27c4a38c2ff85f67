"""The tokens of a text in the place where it stands, which may be others than those that it has alone.

A tokenizer may write a space before whatever text it is given, cut words by what surrounds them, and merge across any
border. So a text is tokenized together with what stands before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tokenizers import Encoding as RawEncoding

from ml.encoding import Encoding

_OTHERS_BEFORE = ("", "\n", "a", "x", "q", ".", "0", " ")
"""Texts before which a text may be cut as in the middle of another one."""


@dataclass(frozen=True)
class Junction:
    """A prompt and what follows it, in tokens.

    Attributes:
        prompt: the prompt, less the tokens that `ids` write again.
        ids: the tokens that follow, none where the text has none.
        overlap: the end of the prompt's text that `ids` begin with: the part of a token in which it ends.
        apart: whether the prompt has other tokens here than alone.
    """

    prompt: Encoding
    ids: tuple[int, ...]
    overlap: str = ""
    apart: bool = False


def split(prompt: Encoding, whole: Encoding, *, is_given: bool) -> Junction:
    """Cut the tokens of a whole text behind the prompt that it begins with.

    A token in which the prompt ends goes with what follows.

    Args:
        whole: the prompt's text and what follows it, with the same special tokens.
        is_given: whether the prompt's tokens are the caller's own, which its text would not have. They are kept, up to
            where both texts have the border of a token.
    """
    border = len(prompt.text)
    if is_given:
        kept, first = _common(prompt, whole)
    else:
        first = _first_behind(whole, border)
        after = _end(prompt)  # where special tokens follow a text, they follow the prompt
        if prompt.ids[:after] == whole.ids[:after]:
            first = _with_added_spaces(whole, first, after)
        kept = replace(
            prompt,
            ids=whole.ids[:first] + prompt.ids[after:],
            spans=whole.spans[:first] + prompt.spans[after:],
        )
    overlap = prompt.text[min(border, _start(whole, first, border)) :]
    return Junction(kept, whole.ids[first : _end(whole)], overlap, apart=kept.ids != prompt.ids)


def _common(prompt: Encoding, whole: Encoding) -> tuple[Encoding, int]:
    """The tokens of a prompt up to the last border that those of the whole text have too, and the first behind it."""
    border = len(prompt.text)
    while True:
        first = _first_behind(whole, border)
        border = min(border, _start(whole, first, border))
        count = _first_behind(prompt, border)
        start = _start(prompt, count, border)
        if start >= border:
            return prompt.first(count), _with_added_spaces(whole, first, 0)
        border = start


def _first_behind(encoding: Encoding, border: int) -> int:
    """Index of the first token that ends behind the character `border`."""
    spans = enumerate(encoding.spans)
    return next((index for index, span in spans if span is not None and span[1] > border), len(encoding.ids))


def _with_added_spaces(encoding: Encoding, index: int, least: int) -> int:
    """Index of the first token, from `least`, of those that stand nowhere in the text before the one at `index`."""
    while index > least and encoding.spans[index - 1] is None:
        index -= 1
    return index


def _end(encoding: Encoding) -> int:
    """Behind the last token that stands in the text."""
    standing = [index for index, span in enumerate(encoding.spans) if span is not None]
    return standing[-1] + 1 if standing else len(encoding.ids)


def _start(encoding: Encoding, index: int, default: int) -> int:
    """Where the token at `index` begins, if there is one."""
    span = encoding.spans[index] if index < len(encoding.ids) else None
    return default if span is None else span[0]


def spell(
    encode: Callable[[str], RawEncoding],
    decode: Callable[[Sequence[int]], str],
    before: str,
    text: str,
    *,
    own: Sequence[int] | None = None,
    words: bool,
) -> tuple[int, ...] | None:
    """The tokens that write `text` behind those of `before`, which stay as they are.

    They are those of the whole text where `before` ends between two of its tokens, else others that spell the same
    whole text. None where there are none; empty where the text has no tokens.

    Args:
        encode: without special tokens of the tokenizer's own.
        own: the last tokens of what stands before, if they are not those of `before` alone.
        words: whether a token is a word whatever surrounds it, so that `text` is words of its own even where no space
            separates it from `before`.
    """
    own, whole = list(encode(before).ids if own is None else own), encode(before + text)
    ids = tuple(whole.ids[len(own) :])
    # A token for something unknown may cover both texts.
    if whole.ids[: len(own)] == own and (ids or not text.strip()):
        return ids
    spellings = {decode(whole.ids), decode(own) + text}
    for other in (before, *_OTHERS_BEFORE):
        ids = _behind(encode(other + text), len(other))
        if ids and (decode((*own, *ids)) in spellings or words):
            return ids
    return None if encode(text).ids else ()


def _behind(raw: RawEncoding, border: int) -> tuple[int, ...]:
    """The tokens behind the character `border`; none where one of them begins before it."""
    first = next((index for index, (_, end) in enumerate(raw.offsets) if end > border), len(raw.ids))
    if first < len(raw.ids) and raw.offsets[first][0] < border:
        return ()
    return tuple(raw.ids[first:])
