"""A text in the place where it stands: its tokens are those of the whole, or at least spell it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import InputError
from ml.explain.features import segment
from ml.explain.removal import perturbation
from ml.spec import Continuation, Features, Prompt, Removal, RemovalKind
from tests.fixtures.models import SENTENCES
from tests.fixtures.tokenizers import BYTES, KINDS, tokenizer

ODD = st.sampled_from(
    ["⭢", "🦊", " ", "  ", "\n", "\n\n", "12", "345", "'", "m", "Paris", " Paris", "wor", "ld", ".", "e\u0301"]
)
TEXTS = st.one_of(st.sampled_from(SENTENCES), st.lists(ODD, min_size=2, max_size=6).map("".join))
DUMMY_SPACE = ("first", "always", "legacy", "unigram")
SPELLING = (*BYTES, "unigram", "wordpiece")


def follow(kind: str, prompt: str, text: str) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """The prompt's own tokens, those that follow, and whether the whole text has others."""
    encoding = tokenizer(kind).encode(Prompt(text=prompt))
    found = tokenizer(kind).continuation(encoding, Continuation(text=text))
    return encoding.ids, found.ids, found.apart


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_continuation_spell_the_whole_text(kind: str) -> None:
    @settings(deadline=None, max_examples=40)
    @given(TEXTS, st.integers(1, 80))
    def check(whole: str, border: int) -> None:
        border = 1 + (border - 1) % (len(whole) - 1)
        prompt, text = whole[:border], whole[border:]
        tokens = tokenizer(kind)
        if not prompt.strip():
            return
        together = tokens.encode(Prompt(text=whole)).ids
        try:
            own, ids, apart = follow(kind, prompt, text)
        except InputError:
            assert kind not in BYTES, "bytes spell whatever there is"
            assert kind != "words" or not text.strip(), "a word is a word wherever it stands"
            return
        assert apart == (own + ids != together) or kind == "words"
        if kind in BYTES:
            assert tokens.decode(own + ids) == tokens.decode(own) + text
        elif kind in SPELLING:
            assert tokens.decode(own + ids) in {tokens.decode(own) + text, tokens.decode(together)}

    check()


@pytest.mark.parametrize("kind", SPELLING)
def test_a_continuation_of_the_last_word_is_no_word_of_its_own(kind: str) -> None:
    tokens = tokenizer(kind)
    for prompt, text in (("The ca", "pital of"), ("The capi", "tal"), ("In 19", "69 two"), ("The capital o", "f")):
        own, ids, _ = follow(kind, prompt, text)
        assert tokens.decode(own + ids).endswith(prompt + text)


@pytest.mark.parametrize("kind", DUMMY_SPACE)
def test_no_space_is_written_where_none_is(kind: str) -> None:
    _, ids, apart = follow(kind, "The ", "capital")
    assert not tokenizer(kind).token_text(ids[0]).startswith(" ")
    assert apart
    _, ids, apart = follow(kind, "The", " capital")
    assert tokenizer(kind).token_text(ids[0]).startswith(" c")
    assert not apart


def test_what_cannot_be_written_there_is_refused() -> None:
    with pytest.raises(InputError, match="let the prompt end between two words") as caught:
        follow("wordpiece", "The cat", "🦊")
    assert caught.value.field == "continuation.text"


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_an_unknown_token_that_covers_both_is_no_continuation(kind: str) -> None:
    with pytest.raises(InputError, match="ends inside a token"):
        follow(kind, "The ŋ", "ŋ")


def test_whole_words_are_words_of_their_own() -> None:
    for text in ("capital", " capital"):
        _, ids, apart = follow("words", "The", text)
        assert (tokenizer("words").decode(ids), apart) == ("capital", False)
    assert follow("words", "unheard", "of")[1:] == (tokenizer("words").ids("of"), False)
    assert follow("words", "unheard", "un")[1:] == (tokenizer("words").ids("un"), False)


@pytest.mark.parametrize("kind", SPELLING)
@pytest.mark.parametrize(
    ("prompt", "old", "new", "expected"),
    [
        ("The capital of", "capital", "bird", "The bird of"),
        ("The capital of", "The", "bird", "bird capital of"),
        ("“capital” of", "capital", "bird", "“bird” of"),
        ("The capital of", "capital", " bird", "The bird of"),
    ],
)
def test_a_replacement_stands_where_the_old_text_stood(
    kind: str, prompt: str, old: str, new: str, expected: str
) -> None:
    tokens = tokenizer(kind)
    encoding = tokens.encode(Prompt(text=prompt))
    (feature,) = segment(encoding, Features(spans=((prompt.index(old), prompt.index(old) + len(old)),)))
    removed = perturbation(tokens, encoding, [feature], Removal(RemovalKind.TEXT, new))
    ids = removed(np.array([False])).tolist()
    special = len(encoding.ids) - len(tokens.ids(prompt))
    # WordPiece puts spaces around marks, whatever the text had there.
    shown = tokens.decode(ids[special:]).strip().replace("“ ", "“").replace(" ”", "”")
    assert shown == expected
