"""Writes the table of docs/reliability.md from what the scenarios measured: `python -m tests.faults.table`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.faults.report import ROWS, Measure, Row, rows

PAGE = ROWS.with_name("reliability.md")
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"


def render(found: Sequence[Row]) -> str:
    """The table in Markdown."""
    limits = [measure for row in found for measure in row.measures if measure.limit is not None]
    where = "; ".join(sorted({f"{row.machine}, {row.when}" for row in found}))
    lines = [
        f"{len(found)} scenarios, {sum(row.failed for row in found)} failures; {sum(one.met for one in limits)} of "
        f"{len(limits)} figures within what they must be. On {where}.",
        "",
        "| scenario | tried | failed | measured |",
        "|---|---|---|---|",
        *(
            f"| {row.scenario} | {row.tried} | {row.failed} | {'<br>'.join(map(_cell, row.measures))} |"
            for row in found
        ),
    ]
    return "\n".join(lines) + "\n"


def _cell(measure: Measure) -> str:
    value = "none" if math.isnan(measure.value) else f"{_number(measure.value)} {measure.unit}".strip()
    if measure.limit is None:
        return f"{measure.what}: {value}"
    verdict = "met" if measure.met else "**not met**"
    return f"{measure.what}: {value} (at most {_number(measure.limit)}: {verdict})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.2g}"


def main() -> None:
    """Put the table into the page, between its two marks."""
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(head + BEGIN + render(rows()) + END + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
