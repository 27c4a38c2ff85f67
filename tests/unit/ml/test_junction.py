"""A text in the place where it stands: its tokens are those of the whole text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml.encoding import Encoding
from ml.errors import InputError
from ml.explain.features import segment
from ml.explain.removal import perturbation
from ml.junction import Junction
from ml.spec import Continuation, Features, Prompt, Removal, RemovalKind
from tests.fixtures.models import SENTENCES
from tests.fixtures.tokenizers import BYTES, tokenizer

ODD = st.sampled_from(
    ["⭢", "🦊", " ", "  ", "\n", "\n\n", "12", "345", "'", "m", "Paris", " Paris", "wor", "ld", ".", "e\u0301"]
)
TEXTS = st.one_of(st.sampled_from(SENTENCES), st.lists(ODD, min_size=2, max_size=6).map("".join))
DUMMY_SPACE = ("first", "always", "legacy", "unigram")
SPELLING = (*BYTES, "unigram", "wordpiece")


def follow(kind: str, prompt: Prompt, text: str) -> tuple[Encoding, Junction]:
    """The prompt as it is alone, and with what follows."""
    encoding = tokenizer(kind).encode(prompt)
    return encoding, tokenizer(kind).continuation(encoding, Continuation(text=text))


def cut(whole: str, border: int) -> tuple[str, str]:
    """A text in two, none of which is empty."""
    border = 1 + (border - 1) % (len(whole) - 1)
    return whole[:border], whole[border:]


@pytest.mark.parametrize("kind", SPELLING)
def test_the_tokens_are_those_of_the_whole_text(kind: str) -> None:
    @settings(max_examples=60)
    @given(TEXTS, st.integers(1, 80))
    def check(text: str, border: int) -> None:
        prompt, rest = cut(text, border)
        if not prompt.strip():
            return
        whole = tokenizer(kind).encode(Prompt(text=text))
        try:
            alone, found = follow(kind, Prompt(text=prompt), rest)
        except InputError:
            assert whole.spans[0] is not None or not rest.strip(), "a start token comes before every other"
            return
        assert found.prompt.ids + found.ids == whole.ids
        assert found.apart == (found.prompt.ids != alone.ids)
        assert found.prompt.text == prompt
        first = whole.spans[len(found.prompt.ids)]
        assert first is not None
        assert found.overlap == prompt[min(first[0], len(prompt)) :]
        assert all(span is None or span[1] <= len(prompt) for span in found.prompt.spans)

    check()


@pytest.mark.parametrize("kind", SPELLING)
def test_tokens_that_the_caller_gave_are_kept_up_to_a_common_border(kind: str) -> None:
    tokens = tokenizer(kind)

    @settings(max_examples=60)
    @given(st.lists(TEXTS, min_size=1, max_size=3), TEXTS)
    @example(["⭢wor"], "e\u0301⭢")
    def check(parts: list[str], rest: str) -> None:
        ids = tuple(token_id for part in parts for token_id in tokens.ids(part))  # cut otherwise than the whole is
        if not ids:
            return
        try:
            given_, found = follow(kind, Prompt(token_ids=ids), rest)
        except InputError:
            assert not rest.strip() or kind in {"unigram", "wordpiece"} or len(parts) == 1
            return
        kept = len(found.prompt.ids)
        if ids != tokens.ids(given_.text):  # else they are what the text has, which gives way to the whole text's
            assert found.prompt.ids == ids[:kept]
            assert found.apart == (kept < len(ids))
        if kind in BYTES:
            spelled = tokens.decode(found.prompt.ids + found.ids)
            assert spelled == given_.text + rest
            assert given_.text.endswith(found.overlap)

    check()


@pytest.mark.parametrize("kind", SPELLING)
@pytest.mark.parametrize(
    "border", ["The ca|pital of", "The capi|tal", "In 19|69 two", "The capital o|f", "The |capital"]
)
def test_a_token_in_which_the_prompt_ends_goes_with_what_follows(kind: str, border: str) -> None:
    prompt, rest = border.split("|")
    alone, found = follow(kind, Prompt(text=prompt), rest)
    whole = tokenizer(kind).encode(Prompt(text=prompt + rest))
    if found.overlap:
        assert found.apart
        assert len(found.prompt.ids) < len(alone.ids)
        first = whole.spans[len(found.prompt.ids)]
        assert first is not None
        assert first[0] < len(prompt) < first[1]
    else:
        assert not found.apart
        assert (len(prompt), len(prompt)) not in [span for span in whole.spans if span]


@pytest.mark.parametrize("kind", DUMMY_SPACE)
def test_no_space_is_written_where_none_is(kind: str) -> None:
    tokens = tokenizer(kind)
    _, found = follow(kind, Prompt(text="The cap"), "ital")
    assert tokens.decode(found.prompt.ids[1:] + found.ids).strip().endswith("cap" + "ital")
    assert [tokens.token_text(token_id) for token_id in found.ids][1:2] != [" ital"]
    _, found = follow(kind, Prompt(text="The"), " capital")
    assert tokens.token_text(found.ids[0]).startswith(" c")
    assert not found.apart


def test_a_token_with_nothing_before_it_is_refused() -> None:
    with pytest.raises(InputError, match="let the prompt end between two words") as caught:
        follow("wordpiece", Prompt(text="Th"), "e")
    assert caught.value.field == "continuation.text"


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_an_unknown_token_that_covers_both_is_scored_from_there(kind: str) -> None:
    _, found = follow(kind, Prompt(text="The ŋ"), "ŋ")
    assert [tokenizer(kind).token_text(token_id) for token_id in found.ids] == ["<unk>"]
    assert (found.overlap, found.apart) == ("ŋ", True)


def test_whole_words_are_words_of_their_own() -> None:
    words = tokenizer("words")
    for prompt, text in (("The", "capital"), ("The", " capital"), ("unheard", "of"), ("unheard", "un")):
        alone, found = follow("words", Prompt(text=prompt), text)
        assert found == Junction(alone, words.ids(text))


@pytest.mark.parametrize("kind", [*BYTES, "unigram"])
def test_ids_that_write_nothing_are_followed_by_the_text_alone(kind: str) -> None:
    tokens = tokenizer(kind)
    silent = {(tokens.vocabulary_size - 1,), tokens.ids(" ")[:1]}
    for ids in silent:
        prompt = tokens.encode(Prompt(token_ids=ids))
        for text in ("The", " The", "12", "ld") if not prompt.text else ():
            found = tokens.continuation(prompt, Continuation(text=text))
            assert found.prompt.ids == ids
            # A decoder may drop the first space, and a unigram vocabulary does not know every character.
            assert tokens.decode((*ids, *found.ids)) in {text, text.lstrip(), tokens.decode(tokens.ids(text))}


@pytest.mark.parametrize("prompt", [Prompt(text="The </s>"), Prompt(token_ids=(1,))], ids=["text", "ids"])
def test_a_space_that_the_tokenizer_adds_before_what_follows_goes_with_it(prompt: Prompt) -> None:
    for text in ("12", "The"):
        encoding, found = follow("always", prompt, text)
        assert found.prompt == encoding
        assert "".join(map(tokenizer("always").token_text, found.ids)) == f" {text}"
        assert not found.overlap


@pytest.mark.parametrize("kind", SPELLING)
@pytest.mark.parametrize(
    ("prompt", "old", "new", "expected"),
    [
        ("The capital of", "capital", "bird", "The bird of"),
        ("The capital of", "The", "bird", "bird capital of"),
        ("“capital” of", "capital", "bird", "“bird” of"),
        ("The capital of", "capital", " bird", "The bird of"),
        ("12 of", "12", "bird", "bird of"),
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


@pytest.mark.parametrize("kind", BYTES)
def test_a_replaced_token_leaves_the_others_as_they_are(kind: str) -> None:
    tokens = tokenizer(kind)

    @settings(max_examples=40)
    @given(TEXTS.filter(str.strip), st.sampled_from(["*", "ld", " x", "🦊", "a b"]), st.integers(0, 40))
    @example("12 of", "*", 0)
    @example("\nThe", "ld", 0)
    @example(" Paris", "*", 0)
    @example("  ld", "*", 0)
    def check(text: str, new: str, number: int) -> None:
        encoding = tokens.encode(Prompt(text=text))
        at = [position for position, span in enumerate(encoding.spans) if span and encoding.spans.count(span) == 1]
        position = at[number % len(at)] if at else None
        if position is None:
            return
        start, end = encoding.spans[position] or (0, 0)
        old = text[start:end]
        space = "" if new.startswith(" ") else old[: len(old) - len(old.lstrip())]
        written = tokens.replacement(encoding, position, new)
        assert written is not None
        special = len(encoding.ids) - len(tokens.ids(text))
        shown = tokens.decode((*encoding.ids[special:position], *written, *encoding.ids[position + 1 :]))
        expected = text[:start] + space + new + text[end:]
        assert shown in {expected, expected.removeprefix(" ")}  # a decoder may drop the first space

    check()
