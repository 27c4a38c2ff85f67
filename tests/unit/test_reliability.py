"""The page of what the fault scenarios measured."""

from __future__ import annotations

import math

from tests.faults.report import Measure, Row, rows
from tests.faults.table import BEGIN, END, PAGE, render


def test_the_page_shows_what_is_kept():
    _, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    shown, end, _ = rest.partition(END)
    assert begin
    assert end
    assert shown == render(rows()), "run python -m tests.faults.table"


def test_what_is_not_met_is_told():
    measures = [
        Measure("quick", 1.0, "s", 2.0),
        Measure("slow", 3.0, "s", 2.0),
        Measure("free", 12345.6),
        Measure("nothing came", math.nan, "s", 2.0),
    ]
    *_, line = render([Row("kills", "some", 1, measures, "today", "a machine")]).splitlines()
    assert "quick: 1 s (at most 2: met)" in line
    assert "slow: 3 s (at most 2: **not met**)" in line
    assert "free: 12,346" in line
    assert "nothing came: none (at most 2: **not met**)" in line
    assert "1 failures; 1 of 3 figures" in render([Row("kills", "some", 1, measures, "today", "a machine")])
