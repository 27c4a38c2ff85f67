"""Output in an encoding that lacks characters of Gloss's drawings, such as ASCII, or cp1252 of a pipe on Windows."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

_PLAIN = {"−": "-", "±": "+-", "…": "...", "·": "*", "×": "x", "≈": "~", "✔": "+", "✘": "x", "▲": "!"}
_PLAIN |= {"␣": "_", "⏎": "\\n"}
_BLOCK_ELEMENTS = range(0x2580, 0x25A0)
_BOX_DRAWING = range(0x2500, 0x2580)


def tolerate() -> None:
    """Let standard output and error write something for each character that their encoding lacks."""
    codecs.register_error(__name__, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=__name__)


def has(text: str) -> bool:
    """Whether the encoding of standard output has every character of a text; one that is closed has all."""
    try:
        text.encode((sys.stdout and sys.stdout.encoding) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def forget() -> None:
    """Drop what standard output still holds: writing it again, when Python ends, would fail once more."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that cannot be encoded: an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    code = ord(character)
    if code in _BLOCK_ELEMENTS:
        return "#"
    if code in _BOX_DRAWING:
        return "-"
    return _PLAIN.get(character) or ("" if unicodedata.combining(character) else "?")
