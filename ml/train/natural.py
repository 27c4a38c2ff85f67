"""WikiText's spaced-out tokens put back into the text that people write.

WikiText separates punctuation by spaces and marks joints: ``a 17 @-@ match run , York 's best .`` A model that reads
that learns that a space precedes every comma, and is served prompts that have none. What is undone here is undone for
training and evaluation alike. Rare words remain `<unk>`, as they are in the data.
"""

from __future__ import annotations

import re

_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r" @([-,.])@ ", r"\1"),  # 17 @-@ match, 1 @,@ 000, 2 @.@ 5
        (r"(?<=\d) \u2013 (?=\d)", "\u2013"),  # 2013 – 14
        (r" ([,.;:!?%)\]…]|\.\.\.)(?= |$)", r"\1"),
        (r"(?<![^ ])([(\[$£€₹#]) ", r"\1"),
        (r" ('(?:s|t|re|m|ve|ll|d))(?= |[^\w]|$)", r"\1"),
        (r"(?<=s) '(?= )", "'"),  # the players ' union
        (r" ° ", "° "),
        (r"= (?==)", "="),  # = = Heading = =
        (r" ([/\u2044]) ", r"\1"),
    )
)
_QUOTED = re.compile(r'" ([^"]*?) ?"(?= |[,.;:!?)\]\'—\u2013]|$)')


def natural(line: str) -> str:
    """One line of WikiText as people write it."""
    line = line.strip()
    for pattern, replacement in _RULES:
        line = pattern.sub(replacement, line)
    return _QUOTED.sub(r'"\1"', line)


def natural_text(lines: list[str]) -> str:
    """All lines, each with its line end."""
    return "".join(natural(line) + "\n" for line in lines)
