"""Tokens: every span is the token's own text, whatever the prompt is made of."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ml.detokenizer import REPLACEMENT
from ml.errors import InputError, NoChatTemplateError, PromptTooLongError
from ml.explain.features import segment
from ml.models.words import wikitext_tokenizer
from ml.spec import ChatMessage, Continuation, Features, Prompt, Unit
from ml.tokens import Tokenizer
from tests.fixtures.models import CHAT_TEMPLATE, SENTENCES, START, byte_level
from tests.fixtures.tokenizers import BYTES, KINDS, byte_id, tokenizer


@pytest.fixture(scope="module")
def tokens() -> Tokenizer:
    """Byte-level BPE with an unknown token and a chat template."""
    fast = byte_level(unknown="<unk>")
    fast.chat_template = CHAT_TEMPLATE
    return Tokenizer(fast, 64, model="tiny")


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """Word level."""
    return Tokenizer(wikitext_tokenizer(["<unk>", "<eos>", "The", "capital", "of", "France", "is", "Paris"]), 64)


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    """SentencePiece-like: a space is written as a mark, and bytes stand in for unknown characters."""
    words = [("▁The", -1.0), ("▁cat", -1.0), ("▁sat", -1.0), ("s", -1.0)]
    stand_ins = [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    backend = Backend(models.Unigram([("<unk>", 0.0), *stand_ins, *words], unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"), 64)  # noqa: S106


def shown(tokenizer: Tokenizer, prompt: Prompt) -> list[tuple[str, str | None]]:
    """Each token's text, and the text at its span."""
    encoding = tokenizer.encode(prompt)
    return [
        (token.text, encoding.text[slice(*token.span)] if token.span else None) for token in tokenizer.tokens(encoding)
    ]


def test_spans_keep_the_leading_space(tokens: Tokenizer) -> None:
    assert shown(tokens, Prompt(text="The capital  of")) == [
        (START, None),
        ("The", "The"),
        (" capital", " capital"),
        (" ", " "),
        (" of", " of"),
    ]


def test_tokens_of_one_character_share_its_span(tokens: Tokenizer) -> None:
    found = [pair for pair in shown(tokens, Prompt(text="A 🦊 é")) if pair[0] == REPLACEMENT]
    assert found == [(REPLACEMENT, "🦊")] * 4 + [(REPLACEMENT, "é")] * 2


@settings(max_examples=60)
@given(st.text(min_size=1, max_size=12).filter(lambda text: not text.isspace() and "\0" not in text))
def test_any_text_comes_back(tokens: Tokenizer, text: str) -> None:
    encoding = tokens.encode(Prompt(text=text))
    covered = {position for span in encoding.spans if span for position in range(*span)}
    assert covered == set(range(len(text)))
    for token, span in zip(tokens.tokens(encoding), encoding.spans, strict=True):
        if span and REPLACEMENT not in token.text:
            assert token.text == text[slice(*span)]

    decoded = tokens.encode(Prompt(token_ids=encoding.ids[1:]))
    assert decoded.text == text
    assert decoded.ids == encoding.ids[1:]
    # Neighbours that share characters here may be distinguished there, so only their order and text are compared.
    assert {position for span in decoded.spans if span for position in range(*span)} == set(range(len(text)))


def test_words(words: Tokenizer) -> None:
    expected = [("<eos>", None), ("The", "The"), ("<unk>", "capitol"), ("of", "of"), ("Paris", "Paris")]
    assert shown(words, Prompt(text="The capitol  of Paris")) == expected
    assert words.mask_token == (0, "<unk>")
    assert words.special.ends == {1}
    assert shown(words, Prompt(token_ids=(2, 7))) == [("The", "The"), ("Paris", "Paris")]


def test_marked_spaces(pieces: Tokenizer) -> None:
    assert shown(pieces, Prompt(text="The cats sat")) == [
        (" The", "The"),
        (" cat", " cat"),
        ("s", "s"),
        (" sat", " sat"),
    ]
    assert pieces.token_text(pieces.ids("é")[-1]) == REPLACEMENT
    encoding = pieces.encode(Prompt(token_ids=pieces.ids("The catés")))
    assert encoding.text == "The catés"
    assert [encoding.text[slice(*span)] for span in encoding.spans if span] == ["The", " cat", "é", "é", "s"]


@pytest.mark.parametrize("ids", [(200, 201, 202) * 9, (129, 3), tuple(range(2, 66))])
def test_ids_that_are_no_text_get_places_too(tokens: Tokenizer, ids: tuple[int, ...]) -> None:
    encoding = tokens.encode(Prompt(token_ids=ids))
    assert encoding.ids == ids
    spans = [span for span in encoding.spans if span]
    assert spans == sorted(spans)
    assert {position for span in spans for position in range(*span)} == set(range(len(encoding.text)))


def test_chat_contents_are_found_where_the_template_puts_them(tokens: Tokenizer) -> None:
    """The content "user" is also a word of the template itself."""
    contents = ("a", "user", "  Is it? ", "a")
    roles = ("system", "user", "assistant", "user")
    chat = tuple(ChatMessage(role, content) for role, content in zip(roles, contents, strict=True))
    encoding = tokens.encode(Prompt(chat=chat))
    assert encoding.text == (
        f"{START}system: a\n{START}user: user\n{START}assistant: Is it?\n{START}user: a\n{START}assistant:"
    )
    assert [encoding.text[slice(*span)] for span in encoding.editable] == ["a", "user", "Is it?", "a"]
    assert all(encoding.text[: span[0]].endswith(": ") for span in encoding.editable)
    assert encoding.ids.count(0) == 5, "the template's start tokens, and none besides"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}", ["system", "e"]),
        ("{% for m in messages %}{{ m.content | length }}[{{ m.content }}]{% endfor %}", ["e", "system", "e"]),
        (
            "{% for m in messages %}{% if m.content | length == 3 %}{{ raise_exception('no') }}{% endif %}"
            "{{ m.content }}.{% endfor %}",
            ["e", "system", "e"],
        ),
        ("{% for m in messages %}{{ m.content | upper }} {% endfor %}", []),
    ],
    ids=["leaves a message out", "depends on the content", "refuses some contents", "rewrites the content"],
)
def test_chat_templates_with_ideas_of_their_own(template: str, expected: list[str]) -> None:
    fast = byte_level(unknown="<unk>")
    fast.chat_template = template
    chat = (ChatMessage("system", "e"), ChatMessage("user", "system"), ChatMessage("user", "e"))
    encoding = Tokenizer(fast, 64).encode(Prompt(chat=chat))
    assert [encoding.text[slice(*span)] for span in encoding.editable] == expected


def test_chat_is_refused_with_the_templates_own_words(tokens: Tokenizer, words: Tokenizer) -> None:
    with pytest.raises(InputError, match="the role must be system, user or assistant") as caught:
        tokens.encode(Prompt(chat=(ChatMessage("robot", "hello"),)))
    assert caught.value.field == "prompt.chat.messages"
    assert not words.has_chat_template
    with pytest.raises(NoChatTemplateError):
        words.encode(Prompt(chat=(ChatMessage("user", "hello"),)))


@pytest.mark.parametrize(
    ("prompt", "continuation", "expected"),
    [
        (Prompt(text="The capital of France is"), " Paris", (" Paris",)),
        (Prompt(text="The capital "), "of", (" of",)),  # the space is part of the token
        (Prompt(token_ids=(84, 85)), " Paris", (" Paris",)),
        (Prompt(chat=(ChatMessage("user", "Where?"),)), " Paris", (" Paris",)),
    ],
)
def test_continuations(tokens: Tokenizer, prompt: Prompt, continuation: str, expected: tuple[str, ...]) -> None:
    found = tokens.continuation(tokens.encode(prompt), Continuation(text=continuation))
    assert tokens.decode(found.ids) == "".join(expected)


def test_a_continuation_in_words_needs_no_space(words: Tokenizer) -> None:
    encoding = words.encode(Prompt(text="The capital of France is"))
    for text in ("Paris", " Paris"):
        assert words.continuation(encoding, Continuation(text=text)).ids == (7,)
    with pytest.raises(InputError, match="no tokens") as caught:
        words.continuation(encoding, Continuation(text="  "))
    assert caught.value.field == "continuation.text"


def test_continuation_ids_are_taken_as_they_are(tokens: Tokenizer) -> None:
    encoding = tokens.encode(Prompt(text="The"))
    assert tokens.continuation(encoding, Continuation(token_ids=(5, 6))).ids == (5, 6)
    with pytest.raises(InputError) as caught:
        tokens.continuation(encoding, Continuation(token_ids=(5, 400)))
    assert caught.value.field == "continuation.token_ids.ids[1]"


@pytest.mark.parametrize(
    "prompt",
    [Prompt(text="The capital"), Prompt(token_ids=(84, 85)), Prompt(chat=(ChatMessage("user", "Where?"),))],
    ids=repr,
)
@pytest.mark.parametrize("continuation", [Continuation(text=" Paris"), Continuation(token_ids=(5, 6))])
def test_a_prompt_and_what_continues_it_are_as_one_after_the_other(
    tokens: Tokenizer, prompt: Prompt, continuation: Continuation
) -> None:
    found = tokens.prompt_and_continuation(prompt, continuation)
    expected = tokens.continuation(tokens.encode(prompt), continuation)
    assert (found.prompt.ids, found.ids, found.apart) == (expected.prompt.ids, expected.ids, expected.apart)


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (Prompt(token_ids=(3, -1)), "prompt.token_ids.ids[1]"),
        (Prompt(token_ids=(400,)), "prompt.token_ids.ids[0]"),
        (Prompt(text="half a pair: \ud83e"), "prompt.text"),
    ],
)
def test_bad_prompts_name_their_field(tokens: Tokenizer, prompt: Prompt, field: str) -> None:
    with pytest.raises(InputError) as caught:
        tokens.encode(prompt)
    assert caught.value.field == field


@pytest.mark.parametrize("prompt", [Prompt(text="a b c " * 30), Prompt(token_ids=(5,) * 65)])
def test_too_long(tokens: Tokenizer, prompt: Prompt) -> None:
    with pytest.raises(PromptTooLongError, match="at most 64") as caught:
        tokens.encode(prompt)
    assert caught.value.tokens > caught.value.limit == 64


def test_truncation_stored_with_a_tokenizer_is_ignored() -> None:
    fast = byte_level(unknown="<unk>")
    fast.backend_tokenizer.enable_truncation(2)
    fast.backend_tokenizer.enable_padding(length=9)
    assert len(Tokenizer(fast, 64).encode(Prompt(text="The capital of France")).ids) == 6


def test_end_of_text_is_no_unknown_token() -> None:
    tokenizer = Tokenizer(byte_level(unknown=START), 64, end_ids=(7,), vocabulary_size=500)
    assert tokenizer.mask_token is None
    assert tokenizer.special.ends == {0, 7}
    assert tokenizer.token_text(499) == "<499>"


def test_a_start_given_as_an_id_is_no_word_of_the_prompt(tokens: Tokenizer) -> None:
    spelled_out = tokens.encode(Prompt(text="The man")).ids
    encoding = tokens.encode(Prompt(token_ids=spelled_out))
    assert encoding.text == f"{START}The man"
    assert [encoding.text[start:end] for start, end in encoding.editable] == ["The man"]


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "first", "always", "never", "legacy", "gemma", "words"])
def test_a_start_token_that_a_text_spells_out_is_there_once_and_no_feature(kind: str) -> None:
    known = tokenizer(kind)
    added = known.encode(Prompt(text="The man was here"))
    start = known.token_text(added.ids[0])
    assert added.spans[0] is None
    for space in ("", " "):
        text = f"{start}{space}The man was here"
        spelled = known.encode(Prompt(text=text))
        assert spelled.ids == known.encode(Prompt(text=f"{space}The man was here")).ids
        assert spelled.spans[0] == (0, len(start))
        assert [text[slice(*span)] for span in spelled.editable] == [f"{space}The man was here"]
        assert all(span is None or span[0] >= len(start) for span in spelled.spans[1:])
        for unit in Unit:
            features = segment(spelled, Features(unit))
            assert 0 not in {position for feature in features for position in feature.positions}
    assert known.has_start(added)
    assert known.has_start(spelled)
    assert known.has_start(known.encode(Prompt(token_ids=added.ids)))
    assert not known.has_start(known.encode(Prompt(token_ids=added.ids[1:])))


@pytest.mark.parametrize("kind", [*BYTES, "unigram"])
@pytest.mark.parametrize("text", ["123 x", "\nThe man", " The man", "  ldwor", "ldwor 12", "“Yes”, said", "1. The"])
def test_a_space_that_the_tokenizer_adds_stands_nowhere_in_the_text(kind: str, text: str) -> None:
    known = tokenizer(kind)
    encoding = known.encode(Prompt(text=text))
    for token, span in zip(known.tokens(encoding), encoding.spans, strict=True):
        if span is not None:
            assert token.text.isspace() == text[slice(*span)].isspace() or token.text == "<unk>"
    parts = {feature.span: feature.text for feature in segment(encoding, Features(Unit.TOKEN))}
    assert "".join(parts.values()) == text
    if text.isascii():
        assert len(segment(encoding, Features(Unit.TOKEN))) == len(parts), "each character is in one token"


def test_starts_and_ends_within_a_text_are_no_features() -> None:
    known = tokenizer("llama3")
    text = "<s>The man</s> was <s>here"
    encoding = known.encode(Prompt(text=text))
    assert encoding.ids.count(known.encode(Prompt(text="a")).ids[0]) == 2
    assert [text[slice(*span)] for span in encoding.editable] == ["The man", " was ", "here"]


def test_a_start_token_in_a_message_is_no_feature(tokens: Tokenizer) -> None:
    encoding = tokens.encode(Prompt(chat=(ChatMessage("user", f"The {START}man"),)))
    assert [encoding.text[slice(*span)] for span in encoding.editable] == ["The ", "man"]


def test_what_no_tokenizer_adds_is_no_start_token() -> None:
    known = tokenizer("wordpiece")
    encoding = known.encode(Prompt(text="<s>The man"))
    assert not known.has_start(encoding)
    assert [encoding.text[slice(*span)] for span in encoding.editable] == ["The man"]


# The bytes of tokens

PIECES = st.sampled_from(["⭢", "🦊", "é", " ", "  ", "The", " capital", "wor", "ld", "12", "\n", ".", "�", "'", "\xa0"])


def written(kind: str, text: str) -> bytes:
    """The bytes of the tokens that stand in `text`."""
    known = tokenizer(kind)
    return b"".join(token.bytes for token in known.tokens(known.encode(Prompt(text=text))) if token.span)


@pytest.mark.parametrize("kind", BYTES)
def test_the_bytes_of_a_texts_tokens_are_the_texts(kind: str) -> None:
    @settings(max_examples=60)
    @given(st.lists(PIECES, min_size=1, max_size=8).map("".join).filter(lambda text: not text.isspace()))
    def check(text: str) -> None:
        added = b" " if kind in {"first", "always", "legacy"} else b""  # before a text, where there is none
        assert written(kind, text) in {text.encode(), added + text.encode()}

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_known_words_lack_spaces_at_most(kind: str) -> None:
    for sentence in SENTENCES:
        assert written(kind, sentence).replace(b" ", b"").decode() == sentence.replace(" ", "")


@pytest.mark.parametrize("kind", KINDS)
def test_text_and_bytes_say_the_same_unless_bytes_are_part_of_a_character(kind: str) -> None:
    known = tokenizer(kind)
    for token_id in range(known.vocabulary_size - 3):
        text, data = known.token_text(token_id), known.token_bytes(token_id)
        if REPLACEMENT in text:
            with pytest.raises(UnicodeDecodeError):
                data.decode()
        else:
            assert text in {data.decode(), f"##{data.decode()}"}
    assert known.token_bytes(known.vocabulary_size - 1) == b"", "an id that the tokenizer does not name writes nothing"


@pytest.mark.parametrize("kind", BYTES)
def test_every_byte_has_a_token(kind: str) -> None:
    for byte in {*"🦊⭢é".encode(), 0xFF, 0x41, 0x20}:
        assert tokenizer(kind).token_bytes(byte_id(kind, byte)) == bytes([byte])
