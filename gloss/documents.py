"""Documents that a model answers from: their text, the lines that its parts stand in, and the prompt of them all."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

MAX_BYTES = 16 * 2**20
"""Of a document: more than any model reads at once."""

CONTEXT, QUESTION = "{context}", "{question}"
PLAIN = f"{CONTEXT}\n\nQuestion: {QUESTION}\nAnswer:"
"""The prompt for models without a chat template."""
CHAT = f"{CONTEXT}\n\n{QUESTION}"
"""The user's message for those that have one."""
_BETWEEN = "\n\n"
_LINE_END = re.compile(r"\r\n?")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Span = tuple[int, int]
"""A half-open range of characters."""


@dataclass(frozen=True)
class Document:
    """A text without a byte order mark, line ends other than LF, and white space around it.

    Attributes:
        first_line: the line of the file on which `text` begins, from 1.
    """

    name: str
    text: str
    first_line: int = 1

    @classmethod
    def of(cls, name: str, text: str) -> Document:
        """A document of a text as it stands in a file.

        Raises:
            ValueError: it holds a NUL character, as no text does.
        """
        if "\0" in text:
            raise ValueError(f"{name} is no text: it holds a NUL character")
        whole = _LINE_END.sub("\n", text.removeprefix("\ufeff"))
        rest = whole.lstrip()
        return cls(name, rest.rstrip(), 1 + whole.count("\n", 0, len(whole) - len(rest)))

    @classmethod
    def read(cls, name: str, file: IO[bytes]) -> Document:
        """A document of a file in UTF-8, or in UTF-16 with a byte order mark, as Windows writes it.

        Raises:
            ValueError: it is too large, or no such text.
            OSError: it cannot be read.
        """
        content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"{name} has more than {MAX_BYTES // 2**20} MiB, and no model reads so much at once")
        if content.startswith(_UTF_16):
            try:
                return cls.of(name, content.decode("utf-16"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{name} is no text in UTF-16, though it begins as one: {error.reason}") from error
        if b"\0" in content:
            raise ValueError(f"{name} is no text in UTF-8: it holds a NUL character")
        try:
            return cls.of(name, content.decode())
        except UnicodeDecodeError as error:
            line = 1 + content.count(b"\n", 0, error.start)
            byte = f"0x{content[error.start]:02x}"
            raise ValueError(f"{name} is no text in UTF-8: byte {byte} in line {line}") from error

    def lines(self, span: Span) -> tuple[int, int]:
        """The first and the last line of the file that a part of `text` stands in."""
        start, end = span
        first = self.first_line + self.text.count("\n", 0, start)
        return first, first + self.text.count("\n", start, end)


ContextLike = str | Mapping[str, str] | Sequence[tuple[str, str]] | Sequence[Document]
"""A text, texts by their names, or documents."""


def documents(context: ContextLike) -> list[Document]:
    """The documents of a context that hold any text.

    Raises:
        ValueError: none does, or one is no text.
        TypeError: it is something else.
    """
    if isinstance(context, str):
        context = {"context": context}
    pairs = context.items() if isinstance(context, Mapping) else context
    if isinstance(pairs, bytes | Document) or not isinstance(pairs, Iterable):
        raise _no_context(pairs)
    read = [each if isinstance(each, Document) else Document.of(*_named(each)) for each in pairs]
    found = [each for each in read if each.text]
    if not found:
        raise ValueError("the context is blank: there is nothing to cite")
    return found


def _named(pair: object) -> tuple[str, str]:
    """The name and the text of a document.

    Raises:
        TypeError: it is something else, such as a text without a name, or bytes.
    """
    match pair:
        case (str(name), str(text)):
            return name, text
    raise _no_context(pair)


def _no_context(value: object) -> TypeError:
    wanted = 'a text, or texts by their names such as {"notes.md": "A text."}'
    return TypeError(f"a context is {wanted}, not {value!r:.40}")


def check_text(name: str, value: object) -> None:
    """Check that an argument is a text.

    Raises:
        TypeError: it is something else, such as bytes.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text, not {value!r:.40}")


@dataclass(frozen=True)
class Prompt:
    """Documents and a question in one text.

    Attributes:
        starts: where each document begins.
        next_question: what would begin another question, if the template has words before one.
    """

    text: str
    documents: Sequence[Document]
    starts: tuple[int, ...]
    question: Span
    next_question: str = ""


def prompt(template: str, context: Sequence[Document], question: str) -> Prompt:
    """Write documents and a question into a template, both as they are: marks that they hold are no marks.

    Raises:
        ValueError: the template lacks one of its marks, or has one twice; the question is blank.
        TypeError: one of them is no text.
    """
    check_text("the template", template)
    check_text("the question", question)
    if not question.strip():
        raise ValueError("the question is blank")
    for mark in (CONTEXT, QUESTION):
        if template.count(mark) != 1:
            raise ValueError(f"the template must hold {mark} once, and it holds it {template.count(mark)} times")
    text, starts, asked = "", [], (0, 0)
    for part in re.split(f"({re.escape(CONTEXT)}|{re.escape(QUESTION)})", template):
        if part == CONTEXT:
            for index, document in enumerate(context):
                text += _BETWEEN if index else ""
                starts.append(len(text))
                text += document.text
        elif part == QUESTION:
            asked = (len(text), len(text) + len(question.strip()))
            text += question.strip()
        else:
            text += part
    words = template.partition(QUESTION)[0].rpartition(CONTEXT)[2].strip()
    return Prompt(text, context, tuple(starts), asked, f"\n{words}" if words else "")
