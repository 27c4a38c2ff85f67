from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.encoding import Encoding
from ml.errors import InputError
from ml.explain.features import segment
from ml.spec import Features, Prompt, Unit
from tests.unit.ml.explain.toys import byte_tokenizer, word_tokenizer

BPE = byte_tokenizer(unk=True, context=4096)


def cut(text, features=None, tokenizer=BPE):
    return segment(tokenizer.encode(Prompt(text=text)), features or Features())


def test_words_own_the_tokens_of_their_leading_space():
    encoding = BPE.encode(Prompt(text="The capital of France"))
    features = segment(encoding, Features())
    assert [feature.text for feature in features] == ["The", "capital", "of", "France"]
    assert [feature.span for feature in features] == [(0, 3), (4, 11), (12, 14), (15, 21)]
    assert sorted(position for feature in features for position in feature.positions) == list(range(len(encoding.ids)))


def test_every_token_is_a_feature_of_its_own_even_inside_a_character():
    encoding = BPE.encode(Prompt(text="a \N{GRINNING FACE}"))
    features = segment(encoding, Features(unit=Unit.TOKEN))
    assert [feature.positions for feature in features] == [(index,) for index in range(len(encoding.ids))]
    assert features[-1].text == features[-2].text
    assert "\N{GRINNING FACE}" in features[-1].text


def test_sentences():
    features = cut("One man. Two men.", Features(unit=Unit.SENTENCE))
    assert [feature.text for feature in features] == ["One man.", "Two men."]


def test_special_tokens_belong_to_none():
    encoding = Encoding("hi you", (9, 1, 2, 9), (None, (0, 2), (2, 6), None), ((0, 6),))
    for unit in (Unit.TOKEN, Unit.WORD):
        assert [feature.positions for feature in segment(encoding, Features(unit=unit))] == [(1,), (2,)]


def test_words_that_share_their_first_token_are_one_feature():
    encoding = Encoding("New York is big", (1, 2, 3), ((0, 8), (8, 11), (11, 15)), ((0, 15),))
    features = segment(encoding, Features())
    assert [(feature.text, feature.positions) for feature in features] == [
        ("New York", (0,)),
        ("is", (1,)),
        ("big", (2,)),
    ]


def test_a_word_that_no_token_covers_is_no_feature():
    encoding = Encoding("a b c", (1, 2), ((0, 1), (4, 5)), ((0, 5),))
    assert [feature.text for feature in segment(encoding, Features())] == ["a", "c"]


def test_only_editable_parts_become_features():
    encoding = Encoding("<u>hi you<a>", (7, 1, 2, 8), ((0, 3), (3, 5), (5, 9), (9, 12)), ((3, 9),))
    for unit in (Unit.WORD, Unit.TOKEN):
        assert [feature.positions for feature in segment(encoding, Features(unit=unit))] == [(1,), (2,)]


def test_within_keeps_units_that_begin_there():
    text = "The quick brown fox"
    assert [feature.text for feature in cut(text, Features(within=(4, 12)))] == ["quick", "brown"]
    assert [feature.text for feature in cut(text, Features(within=(5, 19)))] == ["brown", "fox"]


def test_spans_of_the_caller():
    features = cut("The quick brown fox", Features(spans=((4, 9), (16, 19))))
    assert [feature.text for feature in features] == ["quick", "fox"]


@pytest.mark.parametrize(
    ("features", "field"),
    [
        (Features(spans=((0, 3), (4, 99))), "features.spans[1]"),
        (Features(spans=((0, 3), (3, 4))), "features.spans[1]"),
        (Features(within=(0, 99)), "features.within"),
        (Features(within=(3, 4)), "features.within"),
    ],
)
def test_refused(features, field):
    with pytest.raises(InputError) as error:
        cut("The quick", features, word_tokenizer())
    assert error.value.field == field


def test_too_many_features():
    with pytest.raises(InputError, match="5000 features") as error:
        cut("a " * 5000, tokenizer=word_tokenizer(context=10_000))
    assert error.value.field == "features"


@given(st.text(min_size=1, max_size=40), st.sampled_from(Unit))
def test_features_partition_tokens_whatever_the_text(text, unit):
    try:
        features = cut(text, Features(unit=unit))
    except InputError:  # blank, NUL, or nothing visible
        return
    owned = [position for feature in features for position in feature.positions]
    assert len(owned) == len(set(owned))
    for feature, following in pairwise(features):
        assert feature.positions
        assert feature.text == text[slice(*feature.span)]
        assert feature.positions < following.positions
        assert unit is Unit.TOKEN or feature.span[1] <= following.span[0]
