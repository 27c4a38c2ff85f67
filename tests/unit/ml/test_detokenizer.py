"""Text as tokens come: whatever they are, it is the text of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.detokenizer import REPLACEMENT
from ml.generation import FinishReason, Generation, GenerationSpec
from ml.spec import Prompt
from tests.fixtures.tokenizers import BYTES, KINDS, STAND_INS, byte_id, tokenizer

PIECES = st.sampled_from(["⭢", "🦊", "é", " ", "  ", "The", " capital", "wor", "ld", "12", "\n", ".", "�", "'", "▁"])
TEXTS = st.lists(PIECES, max_size=6).map("".join)


def ids_of(kind: str) -> st.SearchStrategy[list[int]]:
    """Token ids: of texts, cut anywhere, of single bytes, and at random, those of the model alone among them."""
    texts = TEXTS.map(lambda text: list(tokenizer(kind).ids(text)))
    cut = st.builds(lambda ids, start, end: ids[start : len(ids) - end], texts, st.integers(0, 3), st.integers(0, 3))
    random = st.lists(st.integers(0, tokenizer(kind).vocabulary_size - 1), max_size=10)
    some = [texts, cut, random]
    if kind in BYTES:
        odd = st.sampled_from([0xE2, 0xAD, 0xA2, 0xF0, 0x9F, 0xED, 0xC0, 0xFF, 0x41, 0x80, 0xEF, 0xBF, 0xBD, 0x20])
        some.append(st.lists(odd.map(lambda byte: byte_id(kind, byte)), max_size=12))
    return st.lists(st.one_of(some), max_size=4).map(lambda parts: [token_id for part in parts for token_id in part])


def certain(kind: str, ids: Sequence[int]) -> str:
    """The text of `ids` without a last character that another byte might complete or continue."""
    text = tokenizer(kind).decode(ids)
    if kind in BYTES:
        longer = [tokenizer(kind).decode([*ids, byte_id(kind, byte)]) for byte in (0x80, 0x90, 0xA0)]
        if any(len(one) == len(text) for one in longer):
            assert text[-1] == REPLACEMENT
            return text[:-1]
    return text


def endless(kind: str, ids: Sequence[int]) -> list[int]:
    """At least one token, and none that ends a text."""
    return [token_id for token_id in ids if token_id not in tokenizer(kind).special.ends] or [5]


def generated(kind: str, prompt: Sequence[int], ids: Sequence[int], *stop: str) -> tuple[list[str], FinishReason]:
    """What is printed after each token of a generation whose model insists on `ids`."""
    generation = Generation(GenerationSpec(stop=stop), tokenizer(kind), prompt, len(ids))
    printed: list[str] = []
    for token_id in ids:
        row = np.full(tokenizer(kind).vocabulary_size, -50.0)
        row[token_id] = 0.0
        step = generation.advance(row)
        printed.append(step.text)
        if step.finish is not None:
            return printed, step.finish
    raise AssertionError("a generation ends")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_printed_is_the_text_of_all_tokens(kind: str) -> None:
    @settings(max_examples=40)
    @given(ids_of(kind), ids_of(kind).map(lambda ids: endless(kind, ids)))
    def check(prompt: list[int], ids: list[int]) -> None:
        known = certain(kind, prompt)
        whole = tokenizer(kind).decode([*prompt, *ids])
        assert whole.startswith(known)
        printed, finish = generated(kind, prompt, ids)
        assert "".join(printed) == whole[len(known) :]
        assert finish is FinishReason.LENGTH
        for count in range(1, len(ids)):
            assert "".join(printed[:count]) == certain(kind, [*prompt, *ids[:count]])[len(known) :]

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_is_found_across_any_border(kind: str) -> None:
    @settings(max_examples=40)
    @given(ids_of(kind), TEXTS, st.integers(0, 20), st.integers(1, 4))
    def check(prompt: list[int], text: str, start: int, length: int) -> None:
        ids = endless(kind, tokenizer(kind).ids(text))
        for cut in (0, 1, 2):  # the last one or two tokens of the prompt begin a character, perhaps
            before, after = [*prompt, *ids[:cut]], ids[cut:] or [5]
            said = tokenizer(kind).decode([*before, *after])[len(certain(kind, before)) :]
            stop = said[start % len(said) :][:length] if said else "x"
            printed, finish = generated(kind, before, after, stop)
            found = said.find(stop)
            assert "".join(printed) == (said[:found] if found >= 0 else said)
            assert finish is (FinishReason.STOP if found >= 0 else FinishReason.LENGTH)

    check()


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_prompt_may_end_inside_a_character(kind: str, cut: int) -> None:
    ids = [byte_id(kind, byte) for byte in "⭢⭢⭢⭢⭢⭢".encode()]
    at = len(ids) - 9 + cut
    assert "".join(generated(kind, ids[:at], ids[at:])[0]) == "⭢⭢⭢"
    assert generated(kind, ids[:at], ids[at:], "⭢⭢") == ([""] * (6 - cut), FinishReason.STOP)


@pytest.mark.parametrize("kind", STAND_INS)
def test_a_broken_character_leaves_those_before_it(kind: str) -> None:
    ids = [byte_id(kind, byte) for byte in b"\xe2\xad\xa2\xff\xe2\xad\xe2\xad\xa2\xe2"]
    assert tokenizer(kind).decode(ids) == "⭢��⭢�"
    assert tokenizer(kind).decode(ids[:3]) == "⭢"


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_given_as_ids_have_the_text_of_all_of_them(kind: str) -> None:
    @settings(max_examples=40)
    @given(ids_of(kind).filter(bool))
    def check(ids: list[int]) -> None:
        encoding = tokenizer(kind).encode(Prompt(token_ids=tuple(ids)))
        assert encoding.text == tokenizer(kind).decode(ids)
        spans = [span for span in encoding.spans if span]
        assert spans == sorted(spans)
        covered = {position for span in spans for position in range(*span)}
        spaces = {position for position, character in enumerate(encoding.text) if character == " "}
        assert set(range(len(encoding.text))) - covered <= (spaces if kind in {"words", "wordpiece"} else set())

    check()
