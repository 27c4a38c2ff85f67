"""Abbreviations: whether a full stop belongs to the word before it, and whether the sentence continues after it.

UAX #29 has no abbreviations, as it is independent of languages. These are common ones of English, and some of German
and French that are no English words.
"""

from __future__ import annotations

import re


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


_BEFORE_NAMES = _listed("Mr Mrs Ms Mx Dr Prof Rev Hon Gen Col Capt Lt Sgt Cmdr Gov Sen Rep Pres Messrs Mme Mlle Fr Hr")
"""Titles, which never end a sentence."""

_BEFORE_EXAMPLES = _listed("e.g i.e cf vs viz approx ca incl esp resp z.b d.h u.a vgl bzw sog p.ex")
"""The same, in upper or lower case."""

_BEFORE_NUMBERS = _listed(
    "no nos nr fig figs eq eqs sec secs vol vols ch chap art p pp op tab ref refs ver v"
    " jan feb mar apr jun jul aug sep sept oct nov dec"
)
"""Abbreviations if a number follows; many of them are words or units otherwise."""

_ENDINGS = _listed("St Inc Ltd Co Corp Bros Jr Sr Dept Univ Assn Ave Blvd Rd Mt Ft Ph.D M.Sc B.Sc etc al")
"""Abbreviations that may end a sentence."""

_STARTERS = re.compile(
    r"(?:The|This|That|These|Those|There|Then|They|He|She|It|We|You|I|His|Her|Its|Our|Their|My|Your|An?|And|But|Or|So|If"
    r"|In|On|At|As|For|From|With|When|While|Where|What|Who|Why|How|However|After|Before|Since|Although|Because|Yet|Not"
    r"|By|To|Now|Here|Some|Many|Most|All|Each|Both|Is|Are|Was|Were|Do|Does|Did|Can|Will)\b"
)
"""Words that begin sentences far more often than names."""

_LAST_WORD = re.compile(r"(?P<number>\d\s?)?(?<![^\W_])(?P<word>[^\W\d_]+(?:\.[^\W\d_]+)*)\.\Z")
_LONGEST = 32


def owns_full_stop(word: str, following: str) -> bool:
    """Whether the full stop after `word` is part of it; `following` is the visible text after the full stop."""
    return _is_abbreviation(word, following) and (len(word) > 1 or _goes_on(word, following))


def sentence_goes_on(said: str, following: str) -> bool:
    """Whether the full stop at the end of `said` only marks an abbreviation; `following` is the visible text behind."""
    match = _LAST_WORD.search(said[-_LONGEST:])
    if match is None:
        return False
    word = match["word"]
    if match["number"] and word.casefold() in _BEFORE_NUMBERS:  # "5 sec." is a unit
        return False
    return _is_abbreviation(word, following) and _goes_on(word, following)


def _is_abbreviation(word: str, following: str) -> bool:
    if word.casefold() in _BEFORE_NUMBERS:
        return following[:1].isnumeric()
    return _is_title(word) or word.casefold() in _BEFORE_EXAMPLES or word in _ENDINGS or _has_initials_alone(word)


def _goes_on(word: str, following: str) -> bool:
    if _is_title(word) or word.casefold() in _BEFORE_EXAMPLES | _BEFORE_NUMBERS:
        return True
    return bool(following) and not _STARTERS.match(following)


def _is_title(word: str) -> bool:
    return word in _BEFORE_NAMES or (word.isupper() and word.capitalize() in _BEFORE_NAMES)


def _has_initials_alone(word: str) -> bool:
    """Whether a word is an initialism ("U.S") or an initial ("J"); "I" is far more often the pronoun."""
    parts = word.split(".")
    return all(len(part) == 1 for part in parts) and (len(parts) > 1 or (word.isupper() and word != "I"))
