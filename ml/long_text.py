"""Find texts that cannot fit into the context by reading their first characters only.

Tokenizing megabytes takes seconds, only to find a thousand times too many tokens. If a text's first characters alone
have clearly more tokens than fit, the text does not fit: what follows may change the last tokens of the beginning (a
word that continues, a character that is composed), and no others.

The number of characters that can fit is not computed from the vocabulary's longest token. There is no longest token: an
unknown word of any length may be one, normalizers drop characters, and pre-tokenizers drop white space.
"""

from __future__ import annotations

from collections.abc import Callable

_CHARACTERS = 8
"""Characters per token that the first look assumes: twice as many as usual, so that it nearly always suffices."""

_GROWTH = 4
"""How many times as many characters each look reads as the one before."""

_LAST_TOKENS = 128
"""More tokens than what follows may change: WordPiece cuts words of up to a hundred characters into tokens."""


def least_tokens(count: Callable[[str], int], text: str, limit: int) -> int | None:
    """A number of tokens above `limit` that `text` has at least; None where it may have `limit` or fewer.

    The time it takes does not depend on the text's length where that number is found; elsewhere it is a part of the
    time that tokenizing the text takes.

    Args:
        count: gives the number of a text's tokens.
    """
    margin = _LAST_TOKENS + limit // _CHARACTERS
    characters = _CHARACTERS * (limit + margin)
    while _GROWTH * characters < len(text):
        tokens = count(text[:characters]) - margin
        if tokens > limit:
            return tokens
        characters *= _GROWTH
    return None
