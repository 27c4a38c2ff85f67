import pytest

from ml.explain.units import sentences, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The film's ending", ["The", "film's", "ending"]),
        ("don\u2019t over-think it", ["don\u2019t", "over-think", "it"]),
        ("'tis rock 'n' roll-", ["'", "tis", "rock", "'", "n", "'", "roll", "-"]),
        ("Wait... what?!", ["Wait", ".", ".", ".", "what", "?", "!"]),
        ("  a\n\tb ", ["a", "b"]),
        ("snake_case x2", ["snake_case", "x2"]),
        ("naïve cafe\u0301 Zu\u0308rich", ["naïve", "cafe\u0301", "Zu\u0308rich"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("私は東京", ["私", "は", "東", "京"]),
        ("カタカナ語", ["カタカナ", "語"]),
        ("ok 👩‍👩‍👧! 👍🏽", ["ok", "👩‍👩‍👧", "!", "👍🏽"]),
        ("🇫🇷🇩🇪 ❤️", ["🇫🇷", "🇩🇪", "❤️"]),
        ("می‌خواهم", ["می‌خواهم"]),
        ("\u00a0x\u3000y", ["x", "y"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert [text[start:end] for start, end in words(text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith met J. S. Bach in the U.S. Army. Good.", ["Dr. Smith met J. S. Bach in the U.S. Army.", "Good."]),
        ("Pi is 3.14 exactly. No.", ["Pi is 3.14 exactly.", "No."]),
        ("He left, e.g. at noon. So did I. Then", ["He left, e.g. at noon.", "So did I.", "Then"]),
        ('"Stop!" he said. "Now."', ['"Stop!" he said.', '"Now."']),
        ("Wait... what? Yes", ["Wait... what?", "Yes"]),
        ("(It ended.) Then more.", ["(It ended.)", "Then more."]),
        ("今日は晴れ。明日は雨！", ["今日は晴れ。", "明日は雨！"]),  # noqa: RUF001
        ("Title\n\nBody text.\nGoes on", ["Title", "Body text.", "Goes on"]),
        ("The game . It was", ["The game .", "It was"]),
        ("  padded.  ", ["padded."]),
        ("   ", []),
    ],
)
def test_sentences(text, expected):
    assert [text[start:end] for start, end in sentences(text)] == expected


def test_a_long_text_takes_linear_time():
    text = "Mr. Smith (who knew) said no... " * 5000
    assert len(words(text)) == 12 * 5000
    assert len(sentences(text)) == 5000
