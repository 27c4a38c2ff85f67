"""Texts that cannot fit, recognized by their first characters, however many follow.

Tokenizing megabytes takes seconds, only to find a thousand times too many tokens. What follows a text may change its
last tokens (a word that goes on, a character that is composed), and no others: a text whose first characters alone have
clearly more tokens than fit does not fit.

How long texts can be that do fit is not asked of the vocabulary, as there is no longest token: an unknown word of any
length may be one, normalizers drop characters, and pre-tokenizers white space.
"""

from __future__ import annotations

from collections.abc import Callable

_CHARACTERS = 8
"""Of a token, more or less: twice as many as tokens usually have, so that the first look suffices."""

_GROWTH = 4
"""How much more each look takes in than the one before."""

_LAST_TOKENS = 128
"""How many tokens what follows may change, and more: WordPiece takes words of up to a hundred characters apart."""


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
