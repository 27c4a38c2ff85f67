"""What the scenarios tried and measured, kept in docs/reliability.json for `tests.faults.table`."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import processor

ROWS = Path(__file__).parents[2] / "docs" / "reliability.json"


@dataclass(frozen=True)
class Measure:
    """One number that was measured, and the most that it is meant to be; None where nothing is asked of it."""

    what: str
    value: float
    unit: str = ""
    limit: float | None = None

    @property
    def met(self) -> bool:
        """Whether the number is what it is meant to be."""
        return self.limit is None or self.value <= self.limit


@dataclass(frozen=True)
class Row:
    """One scenario: what was tried, what of it failed, and what was measured."""

    scenario: str
    tried: str
    failed: int
    measures: Sequence[Measure] = ()
    when: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))
    machine: str = field(default_factory=lambda: f"{processor()}, {len(os.sched_getaffinity(0))} cores")


def keep(row: Row) -> None:
    """Put a row in the place of the one that was kept of the same scenario."""
    with ROWS.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # several processes may run tests
        kept = {each.scenario: each for each in rows()}
        kept[row.scenario] = row
        lines = ",\n".join(json.dumps(asdict(each), ensure_ascii=False) for each in kept.values())
        file.truncate(0)
        file.write(f"[\n{lines}\n]\n")


def rows() -> list[Row]:
    """What is kept, in the order in which it was first tried."""
    text = ROWS.read_text(encoding="utf-8") if ROWS.exists() else ""
    found: list[dict[str, Any]] = json.loads(text) if text else []
    return [Row(**{**each, "measures": [Measure(**one) for one in each["measures"]]}) for each in found]


def percentile(values: Sequence[float], per_cent: float) -> float:
    """A percentile of the values; NaN where there are none."""
    return float(np.percentile(values, per_cent)) if len(values) else float("nan")
