"""Reading a data folder, counting its words, and turning WikiText into natural text and into tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.train.bpe import START, UNKNOWN, train_tokenizer
from ml.train.corpus import Corpus, count_words, read_corpus, read_split
from ml.train.errors import DataError
from ml.train.natural import natural, natural_text
from ml.train.words import Vocabulary, build_words


def test_words_are_counted_as_published_figures_count_them(tmp_path: Path) -> None:
    (tmp_path / "wiki.test.tokens").write_text(" \n = A title = \n one\u2028line , two words \n")
    lines = read_split(tmp_path, "test")
    assert lines == [" ", " = A title = ", " one\u2028line , two words "]
    # Words and one line end each; a line separator inside a line is a space between words.
    assert count_words(lines) == 0 + 4 + 5 + len(lines)


def test_a_missing_folder_file_or_text_is_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(DataError, match="no data folder"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"neither train\.txt nor wiki\.train\.tokens"):
        read_corpus(tmp_path)
    broken = {"train": b"\xff\xfe\x00", "valid": b"a\0b", "test": b" \n"}
    reasons = {"train": "not UTF-8", "valid": "NUL", "test": "is empty"}
    for split, content in broken.items():
        (tmp_path / f"{split}.txt").write_bytes(content)
        with pytest.raises(DataError, match=reasons[split]):
            read_split(tmp_path, split)
        with pytest.raises(DataError, match="folder"):
            read_split(tmp_path / f"{split}.txt", split)


@pytest.mark.parametrize(
    ("spaced", "written"),
    [
        (" Their 17th @-@ place finish , in 2012 \u2013 13 . ", "Their 17th-place finish, in 2012\u201313."),
        (" £ 1 @,@ 000 @.@ 50 ( $ 30 ; 5 % ) : yes ! ", "£1,000.50 ($30; 5%): yes!"),
        (' He said , " I didn \'t know ... " and left . ', 'He said, "I didn\'t know..." and left.'),
        (" York 's <unk> and the players ' union ", "York's <unk> and the players' union"),
        (" = = Early life = = ", "== Early life =="),
        (" a 1 / 2 mile [ sic ] ", "a 1/2 mile [sic]"),
        (" ", ""),
    ],
)
def test_wikitext_becomes_what_people_write(spaced: str, written: str) -> None:
    assert natural(spaced) == written


def test_an_unknown_word_is_one_token_that_takes_its_space_along(data: Path) -> None:
    corpus = read_corpus(data)
    tokenizer = train_tokenizer([natural(line) + "\n" for line in corpus.train], 300, 32)
    assert len(tokenizer) == 300
    assert tokenizer.unk_token == UNKNOWN != tokenizer.eos_token == START
    text = natural_text(corpus.train)
    backend = tokenizer.backend_tokenizer
    ids = backend.encode(text, add_special_tokens=False).ids
    assert ids.count(tokenizer.unk_token_id) == text.count(UNKNOWN) > 0
    encoding = backend.encode("see the <unk> cat")
    assert encoding.ids[0] == tokenizer.bos_token_id
    assert encoding.tokens[-2].strip() == UNKNOWN
    known = "The ships meet the king's well-known friend.\n"
    assert backend.decode(backend.encode(known, add_special_tokens=False).ids) == known


def test_both_vocabularies_train_on_what_they_export(data: Path) -> None:
    corpus: Corpus = read_corpus(data)
    for vocabulary in Vocabulary:
        words = build_words(corpus.train, vocabulary)
        assert len(words.words) == len(set(words.words)) == len(words.exported)
        exported = [token for line in corpus.test for token in words.exported(line + "\n").input_ids[1:]]
        assert words.encode(corpus.test).tolist() == exported
    lines = [" The the The "]
    assert build_words(lines, Vocabulary.WIKITEXT).words == ["<unk>", "<eos>", "The", "the"]
    assert "The" not in build_words(lines, Vocabulary.BASIC_ENGLISH).words
