"""Text that others wrote, made safe to show: nothing in it is obeyed, and parts of characters are bytes."""

from __future__ import annotations

from gloss import v1

OBEYED = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)
"""Code points that a terminal or a page would obey: control characters, line ends, and bidirectional overrides."""
_SURROGATES = range(0xD800, 0xE000)
"""Halves of characters, which no encoding has: Python reads them for bytes of a file's name that are no UTF-8."""
_VISIBLE = dict.fromkeys((*OBEYED, *_SURROGATES), "\ufffd") | {code: chr(0x2400 + code) for code in range(32)}
_VISIBLE |= {0x7F: "\u2421", ord("\n"): "⏎", ord("\t"): "⇥"}


def visible(text: str, *, keep_lines: bool = False) -> str:
    """The text with its control characters shown instead of obeyed; `keep_lines` breaks lines after their sign."""
    shown = text.translate(_VISIBLE)
    return shown.replace("⏎", "⏎\n") if keep_lines else shown


def token_text(token: v1.Token | v1.TokenProbability | v1.TokenScore) -> str:
    r"""The token's text; where it holds part of a character, its bytes: ``\xe2\x9f``."""
    return token.bytes.decode(errors="backslashreplace") if "\ufffd" in token.text and token.bytes else token.text
