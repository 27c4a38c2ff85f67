"""Texts that cannot fit are refused by their first characters, and no text that fits is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import PromptTooLongError
from ml.long_text import least_tokens
from ml.spec import Continuation, Prompt
from ml.tokens import Tokenizer
from tests.fixtures.tokenizers import KINDS, tokenizer

LIMIT = 20

PARTS = st.sampled_from(
    ["The capital of France is Paris. ", "x", "é", "e\u0301", "\u200b", "   ", "\n", "<s>", "日本", "🦊", "ﬃ", "0.5 "]
)
TEXTS = st.lists(st.tuples(PARTS, st.integers(1, 1500)), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(parts=TEXTS)
def test_what_it_tells_is_true(kind: str, parts: list[tuple[str, int]]) -> None:
    text = "".join(part * count for part, count in parts)

    def count(some: str) -> int:
        return len(tokenizer(kind).ids(some))

    least = least_tokens(count, text, LIMIT)
    assert least is None or LIMIT < least <= count(text)


@pytest.mark.parametrize("kind", KINDS)
def test_little_of_a_long_text_is_read(kind: str) -> None:
    read = []

    def count(some: str) -> int:
        read.append(len(some))
        return len(tokenizer(kind).ids(some))

    assert least_tokens(count, "the cat sat " * 1_000_000, LIMIT)
    assert sum(read) < 100 * LIMIT * 10


def test_a_long_text_of_few_tokens_is_read() -> None:
    """An unknown word is a token, whatever its length."""
    encoding = tokenizer("words").encode(Prompt(text="x" * 100_000 + " y"))
    assert len(encoding.ids) <= 4


@pytest.mark.parametrize("text", ["The capital ", "x", "\n a"])
def test_all_ways_to_send_a_text_refuse_it(text: str) -> None:
    tokens: Tokenizer = tokenizer("gpt2")
    long = text * 200_000
    for encode, field in (
        (lambda: tokens.encode(Prompt(text=long)), "prompt.text"),
        (lambda: tokens.continuation(tokens.encode(Prompt(text="a")), Continuation(text=long)), "continuation.text"),
        (lambda: tokens.check_length("removal.text", long), "removal.text"),
    ):
        with pytest.raises(PromptTooLongError, match="more than") as caught:
            encode()
        assert caught.value.field == field
        assert caught.value.tokens > caught.value.limit
