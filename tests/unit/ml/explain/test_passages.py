"""Passages: items, lines and paragraphs of texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.explain.text.passages import TextUnit, cut

TEXT = """# Ships

The first ship sank. The second
did not.
- one. Two.
- three

| a | b |
|---|---|
| c | d |

```
x = 1

y = 2
```
"""

EXPECTED = {
    TextUnit.ITEM: [
        "# Ships",
        "The first ship sank. The second\ndid not.",
        "- one. Two.",
        "- three",
        "| a | b |\n|---|---|",
        "| c | d |",
        "```\nx = 1\n\ny = 2\n```",
    ],
    TextUnit.PARAGRAPH: [
        "# Ships",
        "The first ship sank. The second\ndid not.\n- one. Two.\n- three",
        "| a | b |\n|---|---|\n| c | d |",
        "```\nx = 1",
        "y = 2\n```",
    ],
    TextUnit.LINE: [line for line in TEXT.split("\n") if line],
}


@pytest.mark.parametrize("unit", list(EXPECTED))
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_passages(unit: TextUnit, end: str) -> None:
    text = TEXT.replace("\n", end)
    assert [text[slice(*span)].replace(end, "\n") for span in cut(text, unit)] == EXPECTED[unit]


@pytest.mark.parametrize("unit", list(TextUnit))
@given(text=st.text(st.sampled_from(list("ab.!?-#|`*1) \t\n\r\u2028\u3002\u0e01\U0001f98a")), max_size=60))
def test_units_are_in_order_and_leave_out_nothing_but_white_space(unit: TextUnit, text: str) -> None:
    spans = cut(text, unit)
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    assert all(not text[end:start].strip() for end, start in zip(ends, starts, strict=True))
