"""Where the words and the sentences of a text are. Pure functions of text; tokens come in `ml.explain.features`.

Words follow the spirit of Unicode's UAX #29 with what explaining a prompt needs: marks stay with what they mark, an
emoji sequence is one word, scripts written without spaces fall into characters, and hyphens and apostrophes inside a
word belong to it.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from ml.spec import Span

# Each character is first mapped to a kind, so that the grammar below reads as one line whatever the script:
#   w letter, digit or underscore    m mark or skin tone: stays with what precedes it    z invisible joiner
#   i ideograph or hiragana          j apostrophe, hyphen: joins two words                r half a flag
#   . any other visible character    (space) white space
_WORD = re.compile(r"[wm][wmz]*(?:j w[wmz]*)*|i[mz]*|rr?|[.j](?:m|z[.w]?)*".replace(" ", ""))
_JOINERS = frozenset("'\u2019-\u2010\u2011")
_IDEOGRAPHS = (
    *((0x3005, 0x3007), (0x3041, 0x309F), (0x3400, 0x4DBF)),
    *((0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
)
_SKIN_TONES = (0x1F3FB, 0x1F3FF)
_FLAG_LETTERS = (0x1F1E6, 0x1F1FF)


def words(text: str) -> list[Span]:
    """The words of `text`: runs of letters, digits and marks, and every punctuation mark or symbol by itself.

    An apostrophe or a hyphen between two letters belongs to the word ("don't", "twenty-one"). An ideograph or a
    hiragana sign is a word of its own, as no space separates words there. White space is in no word.
    """
    kinds = "".join(map(_kind, text))
    return [match.span() for match in _WORD.finditer(kinds)]


# A sentence ends after these, with any closing quotes or brackets, where white space follows; the wide forms need none.
_END = re.compile(
    r"""(?: (?P<mark>[.!?\u2026\u203d\u061f\u06d4\u0964]+) [)\]}"'\u201d\u2019\u00bb]* (?=\s)
          | [\u3002\uff01\uff1f]+ [\u300d\u300f\uff09\u201d\u2019]*
          | \n[^\S\n]*(?=\n) )""",
    re.VERBOSE,
)
_ABBREVIATION = re.compile(
    "mrs?|ms|dr|prof|rev|hon|st|sr|jr|gen|col|capt|lt|sgt|cmdr|gov|sen|rep|pres|vs|etc|al|cf|figs?|eq|nos?|vol|pp?|ch|sec"
    "|eds?|est|dept|univ|inc|ltd|co|corp|approx|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|e[.]g|i[.]e",
    re.IGNORECASE,
)
_VISIBLE = re.compile(r"\S")
_LAST_WORD = re.compile(r"[^\W_]+(?:\.[^\W_]+)*\Z")


def sentences(text: str) -> list[Span]:
    """The sentences of `text`, without the white space around them.

    A sentence ends at ``.``, ``!``, ``?`` or their kin when white space follows, except before a lower-case letter; at
    a full stop, also not after a known abbreviation ("Dr."), an initial ("J. S. Bach") or an initialism ("U.S."). It
    ends at the wide full stop of East Asian scripts whatever follows, and at a blank line.
    """
    spans, start = [], 0
    for match in _END.finditer(text):
        if match["mark"] is not None and not _really_ends(text, match):
            continue
        spans.append((start, match.end()))
        start = match.end()
    spans.append((start, len(text)))
    return [stripped for span in spans if (stripped := _strip(text, span)) is not None]


def _really_ends(text: str, match: re.Match[str]) -> bool:
    following = _VISIBLE.search(text, match.end())
    if following is not None and following.group().islower():
        return False
    if match["mark"] != ".":
        return True
    last = _LAST_WORD.search(text, max(0, match.start() - 24), match.start())
    if last is None:
        return True
    word = last.group()
    initial = len(word) == 1 and word.isupper() and word != "I"  # "I" is far more often the pronoun.
    initialism = "." in word and all(len(part) == 1 and part.isupper() for part in word.split("."))
    return not (initial or initialism or _ABBREVIATION.fullmatch(word))


def _strip(text: str, span: Span) -> Span | None:
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    code = ord(character)
    if character.isspace():
        return " "
    if character.isalnum() or character == "_":
        return "i" if any(first <= code <= last for first, last in _IDEOGRAPHS) else "w"
    category = unicodedata.category(character)
    if category.startswith("M") or _SKIN_TONES[0] <= code <= _SKIN_TONES[1]:
        return "m"
    if character in _JOINERS:
        return "j"
    if category == "Cf":
        return "z"
    return "r" if _FLAG_LETTERS[0] <= code <= _FLAG_LETTERS[1] else "."
