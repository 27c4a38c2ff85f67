"""The size of a reply before the model runs, so that a reply that cannot be sent costs nothing."""

from __future__ import annotations

from functools import lru_cache

from ml.errors import ReplyTooLargeError
from ml.models.base import LanguageModel
from ml.tokens import Tokenizer

_TOKEN_BYTES = 28
"""Of a token in a reply beside its text: id, two doubles, and the tags and lengths around them."""

_PROMPT_BYTES = 16
"""Of a prediction beside its tokens."""

_TENSOR_BYTES = 128
"""Of two tensors beside their elements, and of the timings."""

_SAMPLE = 512
"""Tokens of the vocabulary that are looked at for the mean length of a token's text."""


def check_next_token(model: LanguageModel, prompts: int, top_k: int, limit: int) -> None:
    """Raise `ReplyTooLargeError` where `prompts` lists of `top_k` tokens of usual length exceed `limit` bytes."""
    size = prompts * (_PROMPT_BYTES + top_k * (_TOKEN_BYTES + _mean_text_bytes(model.tokenizer)))
    if size > limit:
        raise ReplyTooLargeError("top_k", size, limit, "ask for fewer tokens of each prompt, or send fewer prompts")


def check_score(model: LanguageModel, tokens: int, limit: int) -> None:
    """Raise `ReplyTooLargeError` where the scores of `tokens` tokens of usual length exceed `limit` bytes."""
    size = tokens * (_TOKEN_BYTES + _mean_text_bytes(model.tokenizer))
    if size > limit:
        raise ReplyTooLargeError("items", size, limit, "send fewer or shorter continuations at once")


def check_attention(reply: int, tensors: int, limit: int) -> None:
    """Raise `ReplyTooLargeError` where a reply of `reply` bytes and its `tensors` together exceed `limit` bytes."""
    size = reply + tensors + _TENSOR_BYTES
    if size > limit:
        raise ReplyTooLargeError("layers", size, limit)


@lru_cache(maxsize=64)
def _mean_text_bytes(tokenizer: Tokenizer) -> int:
    ids = range(0, tokenizer.vocabulary_size, max(1, tokenizer.vocabulary_size // _SAMPLE))
    return sum(len(tokenizer.token_text(id_).encode()) for id_ in ids) // len(ids)
