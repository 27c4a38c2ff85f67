"""Documents: what is read of a file, the lines of its parts, and the prompt of them all."""

from __future__ import annotations

import io
from typing import Any

import pytest

from gloss.documents import CHAT, MAX_BYTES, PLAIN, Document, documents, prompt


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [("", "utf-8"), ("\ufeff", "utf-8"), ("\ufeff", "utf-16-le"), ("\ufeff", "utf-16-be"), ("", "utf-16")],
)
def test_lines_are_those_that_an_editor_shows(end: str, mark: str, encoding: str) -> None:
    lines = ["", "  One.", "", "Two", "goes on.", "", ""]
    file = io.BytesIO((mark + end.join(lines)).encode(encoding))
    read = Document.read("a.txt", file)
    assert read.text == "One.\n\nTwo\ngoes on."
    for part, expected in {"One.": (2, 2), "Two": (4, 4), "Two\ngoes on.": (4, 5), "goes": (5, 5)}.items():
        start = read.text.index(part)
        assert read.lines((start, start + len(part))) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x7fELF\x02\x00\x01", "NUL"),
        (b"fine\nalso fine\nna\xefve", "byte 0xef in line 3"),
        ("caf\xe9 au lait".encode("utf-16-le"), "a.txt is no text in UTF-8"),
        ("caf\xe9 au lait".encode("utf-16")[:-1], "a.txt is no text in UTF-16"),
        (b"\xff\xfe\x00\x00binary\x00\x00", "NUL"),
        (b"a" * (MAX_BYTES + 1), "16 MiB"),
    ],
)
def test_what_is_no_text_is_refused_and_named(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=r"a\.txt") as refused:
        Document.read("a.txt", io.BytesIO(content))
    assert said in str(refused.value)


def test_no_more_is_read_of_an_endless_file_than_could_be_used() -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            assert size >= 0
            return b"x" * size

    with pytest.raises(ValueError, match="no model reads so much"):
        Document.read("/dev/yes", Endless())  # type: ignore[arg-type]


def test_blank_documents_are_left_out_and_only_blank_ones_are_refused() -> None:
    found = documents({"empty": "", "blank": "\r\n \t", "full": "A word.", "again": "A word."})
    assert [each.name for each in found] == ["full", "again"]
    with pytest.raises(ValueError, match="the context is blank"):
        documents("\ufeff \n")


@pytest.mark.parametrize("template", [PLAIN, CHAT, "{question}\n{context}", "<x>{context}</x>{question}:"])
@pytest.mark.parametrize("hostile", ["{context}", "{question}", "{0}", "{{x}}", "%s", "$context", "\\1", "{% raw %}"])
def test_marks_of_templates_in_a_text_are_text(template: str, hostile: str) -> None:
    context = documents([("a", f"One {hostile} two."), ("b", hostile)])
    written = prompt(template, context, f"What is {hostile}?")
    for document, start in zip(written.documents, written.starts, strict=True):
        assert written.text[start:].startswith(document.text)
    assert written.text[slice(*written.question)] == f"What is {hostile}?"
    frame = template.partition("{")[0]
    assert written.text.startswith(frame)


@pytest.mark.parametrize(
    "template", ["", "{context}", "{question} {question} {context}", "{context}{context}{question}"]
)
def test_a_template_has_each_mark_once(template: str) -> None:
    with pytest.raises(ValueError, match="once"):
        prompt(template, documents("A word."), "Why?")


def test_the_words_before_a_question_would_begin_the_next_one() -> None:
    context = documents("A word.")
    assert prompt(PLAIN, context, "Why?").next_question == "\nQuestion:"
    assert prompt(CHAT, context, "Why?").next_question == ""
    with pytest.raises(ValueError, match="question is blank"):
        prompt(PLAIN, context, " \n")


@pytest.mark.parametrize("context", [["A text."], ["ab", "cd"], ("a", "b"), {"a": None}, {"a": b"A."}, [("a",)]])
def test_a_context_of_something_else_than_named_texts_is_refused(context: Any) -> None:
    with pytest.raises(TypeError, match="texts by their names"):
        documents(context)
