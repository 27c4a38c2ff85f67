"""What a target is cut into."""

from __future__ import annotations

import pytest

from ml.errors import InputError
from ml.explain.rows import cut
from ml.explain.target import TargetTokens
from ml.spec import Continuation, Prompt, Rows, Unit
from tests.unit.ml.explain.toys import byte_tokenizer, word_tokenizer

TEXTS = [" of France is Paris. It is big.", "\n\nof  the \n", " a\n\nb. ", " \U0001f600 \u00e9"]


def rows_of(text, asked, tokenizer=None):
    tokenizer = tokenizer or byte_tokenizer(unk=True)
    prompt = tokenizer.encode(Prompt(text="The capital"))
    target = TargetTokens(tokenizer.continuation(prompt, Continuation(text=text)).ids)
    return cut(tokenizer, prompt, target, asked), target, tokenizer


@pytest.mark.parametrize("unit", Unit)
@pytest.mark.parametrize("text", [" of France is Paris. It is big.", "\n\nof  the \n", " a\n\nb. ", " \U0001f600 é"])
def test_units_share_all_tokens(text, unit):
    rows, target, _ = rows_of(text, Rows(unit))
    assert [place for row in rows for place in row.positions] == list(range(len(target.tokens)))


def test_each_token_is_a_row():
    rows, target, tokenizer = rows_of(" \U0001f600!", Rows())
    assert [row.positions for row in rows] == [(place,) for place in range(len(target.tokens))]
    assert [row.text for row in rows] == [tokenizer.token_text(each) for each in target.tokens]


def test_words_and_sentences():
    words, *_ = rows_of(" of France is. It is Paris.", Rows(Unit.WORD))
    assert [row.text for row in words] == ["of", "France", "is", ".", "It", "is", "Paris", "."]
    sentences, *_ = rows_of(" of France is. It is Paris.", Rows(Unit.SENTENCE))
    assert [(row.text, row.span) for row in sentences] == [("of France is.", (1, 14)), ("It is Paris.", (15, 27))]


def test_white_space_goes_with_what_follows_it():
    rows, target, tokenizer = rows_of(" of\n\nParis \n", Rows(Unit.WORD))
    texts = [tokenizer.decode([target.tokens[place] for place in row.positions]) for row in rows]
    assert [row.text for row in rows] == ["of", "Paris"]
    assert [text.strip() for text in texts] == ["of", "Paris"]
    assert texts[1].startswith("\n\n")
    assert texts[1].endswith("\n")


def test_spans_count_in_the_text_as_it_was_given():
    rows, target, _ = rows_of(" of France is Paris", Rows(spans=((4, 10), (14, 19))))
    assert [(row.text, row.span) for row in rows] == [("France", (4, 10)), ("Paris", (14, 19))]
    assert sum(len(row.positions) for row in rows) < len(target.tokens)


def test_white_space_alone_is_one_row():
    rows, target, _ = rows_of("\n\n", Rows(Unit.SENTENCE))
    assert [row.positions for row in rows] == [tuple(range(len(target.tokens)))]


@pytest.mark.parametrize(
    ("span", "message"), [((0, 99), "leaves the text, which has 10"), ((2, 3), "no token of the target begins")]
)
def test_a_span_without_tokens_is_refused(span, message):
    with pytest.raises(InputError, match=message) as caught:
        rows_of(" good film", Rows(spans=(span,)), word_tokenizer())
    assert caught.value.field == "rows.spans[0]"
