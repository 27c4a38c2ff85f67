"""How much there is to do: a reply's size before the model runs, so that one that cannot be sent costs nothing."""

from __future__ import annotations

from functools import lru_cache

from gloss import v1 as pb
from ml.errors import ReplyTooLargeError
from ml.explain import Forecast
from ml.models.protocol import ExplainableModel
from ml.tokens import Tokenizer

_TOKEN_BYTES = 30
"""Of a token in a reply beside its text and its bytes: id, two doubles, and the tags and lengths around them."""

_LIST_BYTES = 24
"""Of a list of tokens beside its tokens: entropy, rank, usage, and the tags around them."""

_TENSOR_BYTES = 128
"""Of two tensors beside their elements, and of the timings."""

_SAMPLE = 512
"""Tokens of the vocabulary that are looked at for the mean length of a token's text and bytes."""


def check_next_token(model: ExplainableModel, prompts: int, top_k: int, limit: int) -> int:
    """Estimate the bytes of `prompts` lists of `top_k` tokens of usual length.

    Raises:
        ReplyTooLargeError: they exceed `limit`.
    """
    size = prompts * _list_bytes(model, top_k)
    if size > limit:
        raise ReplyTooLargeError("top_k", size, limit, "ask for fewer tokens of each prompt, or send fewer prompts")
    return size


def check_score(model: ExplainableModel, tokens: int, top_k: int, limit: int) -> int:
    """Estimate the bytes of `tokens` scores with `top_k` alternatives each, all tokens of usual length.

    Raises:
        ReplyTooLargeError: they exceed `limit`.
    """
    size = tokens * _list_bytes(model, 1 + top_k)
    if size > limit and top_k:
        advice = "ask for fewer alternatives, or send fewer or shorter continuations at once"
        raise ReplyTooLargeError("top_k", size, limit, advice)
    if size > limit:
        raise ReplyTooLargeError("items", size, limit, "send fewer or shorter continuations at once")
    return size


def check_attention(reply: int, tensors: int, limit: int) -> None:
    """Raise `ReplyTooLargeError` where a reply of `reply` bytes and its `tensors` together exceed `limit` bytes."""
    size = reply + tensors + _TENSOR_BYTES
    if size > limit:
        raise ReplyTooLargeError("layers", size, limit)


def check_rows(planned: Forecast, limit: int) -> None:
    """Raise `ReplyTooLargeError` where the rows of an explanation's result exceed `limit` bytes."""
    if planned.row_bytes > limit:
        advice = f"ask for fewer rows than {planned.rows:,} (of larger units), or for larger or fewer features"
        raise ReplyTooLargeError("rows", planned.row_bytes, limit, advice)


def texts_of(question: pb.ExplanationSpec | pb.StudySpec) -> int:
    """Bytes of the texts that a question is about. Few words may make many of them."""
    if isinstance(question, pb.StudySpec) and question.HasField("bias_probe"):
        probe = question.bias_probe
        return sum(map(len, probe.templates)) * sum(len(group.words) for group in probe.groups)
    return question.ByteSize()


def _list_bytes(model: ExplainableModel, tokens: int) -> int:
    """Bytes of a list of `tokens` tokens of usual length."""
    return _LIST_BYTES + tokens * (_TOKEN_BYTES + _mean_text_bytes(model.tokenizer))


@lru_cache(maxsize=64)
def _mean_text_bytes(tokenizer: Tokenizer) -> int:
    ids = range(0, tokenizer.vocabulary_size, max(1, tokenizer.vocabulary_size // _SAMPLE))
    return sum(len(tokenizer.token_text(id_).encode()) + len(tokenizer.token_bytes(id_)) for id_ in ids) // len(ids)
