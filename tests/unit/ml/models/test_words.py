"""Word-level tokenizers: WikiText's words, and torchtext's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.models.words import END, UNKNOWN, basic_english_tokenizer, wikitext_tokenizer

LINES = [
    " The U.S. 's 17th @-@ place club , York City F.C. , spent £ 1 @,@ 000 @.@ 50 on the players ' kit . ",
    ' Mr. <unk> said : " I didn \'t ( really ) know ... " ; 50 % of 1 : 2 / 3 ! ',
    " 'n'roll and the 1,000th A ! ",
]
WORDS = [UNKNOWN, END, *dict.fromkeys(word for line in LINES for word in line.split() if word != UNKNOWN)]


def pieces(text: str) -> list[tuple[str, str]]:
    """Each token beside the text that it stands for."""
    encoding = wikitext_tokenizer(WORDS).backend_tokenizer.encode(text, add_special_tokens=False)
    return [(WORDS[i], text[begin:end]) for i, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True)]


@pytest.mark.parametrize("line", LINES)
def test_wikitext_comes_apart_at_its_spaces(line: str) -> None:
    assert pieces(line) == [(word, word) for word in line.split()]


def test_text_as_people_write_it_is_cut_as_wikitext_was() -> None:
    text = "York's club, Mr. York (in the U.S.), didn't know: £1,000.50."
    expected = "York 's club , Mr. York ( <unk> the U.S. ) , didn 't know : £ 1 @,@ 000 @.@ 50 ."
    assert [token for token, _ in pieces(text)] == expected.split()
    assert [shown for _, shown in pieces("17th-place club.")] == ["17th", "-", "place", "club", "."]


def test_a_line_end_is_the_end_of_a_sentence() -> None:
    assert pieces("York\nclub") == [("York", "York"), (END, "\n"), ("club", "club")]


def test_a_prompt_starts_after_a_line() -> None:
    tokenizer = wikitext_tokenizer(WORDS)
    assert tokenizer("the club").input_ids == [WORDS.index(word) for word in (END, "the", "club")]
    assert tokenizer.unk_token == UNKNOWN


def test_it_survives_the_disk(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    wikitext_tokenizer(WORDS).save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert loaded(LINES[0]).input_ids == wikitext_tokenizer(WORDS)(LINES[0]).input_ids
    assert (loaded.unk_token, loaded.eos_token, loaded.bos_token) == (UNKNOWN, END, END)


torchtext_lines = st.text(st.sampled_from("aBc Éß.,'\"()!?;:<br />0\u2013-é\t"), max_size=60)


@given(torchtext_lines)
@settings(max_examples=200)
def test_basic_english_is_torchtexts(line: str) -> None:
    from torchtext.data.utils import get_tokenizer

    expected = get_tokenizer("basic_english")(line)
    words = [UNKNOWN, END, *dict.fromkeys(expected)]
    encoding = basic_english_tokenizer(words).backend_tokenizer.encode(line, add_special_tokens=False)
    assert [words[i] for i in encoding.ids] == expected
    for word, (begin, end) in zip(expected, encoding.offsets, strict=True):
        assert line[begin:end].lower().replace('"', "") == word


@pytest.mark.skipif("GLOSS_WIKITEXT" not in os.environ, reason="GLOSS_WIKITEXT names no folder with WikiText-2")
@pytest.mark.slow
@pytest.mark.parametrize("split", ["test", "valid"])
def test_every_line_of_wikitext(split: str) -> None:
    from ml.train.corpus import read_split
    from ml.train.words import Vocabulary, build_words

    training = read_split(os.environ["GLOSS_WIKITEXT"], "train")
    lines = read_split(os.environ["GLOSS_WIKITEXT"], split)
    for vocabulary, size in ((Vocabulary.WIKITEXT, 33_278), (Vocabulary.BASIC_ENGLISH, 28_784)):
        words = build_words(training, vocabulary)
        assert len(words.words) == size
        known = set(words.words)
        backend = words.exported.backend_tokenizer
        for line, encoding in zip(lines, backend.encode_batch(lines, add_special_tokens=False), strict=True):
            expected = words.split(line)
            assert [words.words[i] for i in encoding.ids] == [w if w in known else UNKNOWN for w in expected]
            for word, (begin, end) in zip(expected, encoding.offsets, strict=True):
                assert word in (line[begin:end], line[begin:end].lower().replace('"', ""))
