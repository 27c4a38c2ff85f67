"""What a target is cut into."""

from __future__ import annotations

import pytest

from ml.errors import InputError
from ml.explain import Run
from ml.explain.rows import cut
from ml.explain.target import TargetTokens
from ml.spec import Continuation, ExplanationSpec, Occlusion, Prompt, Rows, Target, Unit
from tests.fixtures import tokenizers
from tests.fixtures.tokenizers import BYTES
from tests.unit.ml.explain.toys import ToyModel, byte_tokenizer, word_tokenizer

TEXTS = [" of France is Paris. It is big.", "\n\nof  the \n", " a\n\nb. ", " \U0001f600 \u00e9"]


def rows_of(text, asked, tokenizer=None):
    tokenizer = tokenizer or byte_tokenizer(unk=True)
    prompt = tokenizer.encode(Prompt(text="The capital"))
    found = tokenizer.continuation(prompt, Continuation(text=text))
    target = TargetTokens(found.ids, overlap=found.overlap)
    return cut(tokenizer, found.prompt, target, asked), target, tokenizer


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


@pytest.mark.parametrize("kind", [*BYTES, "unigram", "wordpiece"])
@pytest.mark.parametrize("asked", [Rows(), Rows(Unit.WORD), Rows(spans=((0, 4), (5, 7)))])
def test_rows_of_a_target_that_begins_inside_a_token_count_in_its_own_text(kind, asked):
    model = ToyModel({}, tokenizer=tokenizers.tokenizer(kind))
    question = ExplanationSpec(
        Prompt(text="The old cap"), Occlusion(), Target(Continuation(text="ital of")), rows=asked
    )
    *_, update = Run(model, question)
    target, rows = update.result.target, update.result.rows
    assert target.overlap.strip() == "cap" or kind not in BYTES
    assert target.text == "ital of"
    positions = [position for row in rows for position in row.positions]
    assert positions[0] == 0
    assert asked.spans or positions == list(range(len(target.tokens)))
    assert rows[0].span[0] == 0
    assert rows[-1].span[1] == len("ital of")
    if asked != Rows():
        assert [(row.text, row.span) for row in rows] == [("ital", (0, 4)), ("of", (5, 7))]


@pytest.mark.parametrize("kind", [*BYTES, "unigram"])
def test_a_space_that_ends_the_prompt_is_in_no_row(kind):
    tokenizer = tokenizers.tokenizer(kind)
    prompt = tokenizer.encode(Prompt(text="The man was "))
    found = tokenizer.continuation(prompt, Continuation(text="the capital"))
    target = TargetTokens(found.ids, overlap=found.overlap)
    rows = cut(tokenizer, found.prompt, target, Rows(spans=((0, 3), (4, 11))))
    assert [row.text for row in rows] == ["the", "capital"]
    assert rows[0].positions[0] == 0


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_a_token_that_writes_the_prompts_end_otherwise_stays_whole(kind):
    tokenizer = tokenizers.tokenizer(kind)
    prompt = tokenizer.encode(Prompt(text="The \u014b"))
    found = tokenizer.continuation(prompt, Continuation(text="\u014b"))
    [row] = cut(tokenizer, found.prompt, TargetTokens(found.ids, overlap=found.overlap), Rows())
    assert found.overlap
    assert row.text == "<unk>"
    assert row.span is not None
