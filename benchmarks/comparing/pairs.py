"""Turns of two processes, and the ratio of their times with what it is worth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_TIMED_SECONDS = 0.25
"""A turn at a short work repeats it for so long; its time is the shortest, as whatever disturbs only adds."""
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Timing:
    """One turn at a work.

    Attributes:
        wall: its fastest time by the clock, in seconds.
        processor: its shortest one of all of the process's threads together, in seconds.
        values: some of the numbers that came out.
    """

    wall: float
    processor: float
    values: Sequence[float]


@dataclass(frozen=True)
class Ratio:
    """The median over pairs of new ÷ old, and its 95 % interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, old: Sequence[float], new: Sequence[float]) -> Ratio:
        """From the times of each pair; the interval by bootstrap over pairs, with a seed."""
        ratios = np.array(new) / np.array(old)
        drawn = np.random.default_rng(0).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
        medians: npt.NDArray[np.float64] = np.median(ratios[drawn], axis=1)
        low, high = np.percentile(medians, (2.5, 97.5))
        return cls(float(np.median(ratios)), float(low), float(high))

    @property
    def columns(self) -> tuple[str, str]:
        """For a table."""
        return f"{self.median:.3f}", f"{self.low:.3f} to {self.high:.3f}"

    def __str__(self) -> str:
        """On one line."""
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Comparison:
    """A work in both checkouts; `difference` is the largest between their numbers, None where it gives none."""

    work: str
    old_milliseconds: float
    wall: Ratio
    processor: Ratio
    difference: float | None


class Side:
    """A checkout's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Wait until it has loaded its model."""
        self._process = process
        self.works: list[str] = self._answer()

    def timing(self, work: str, times: int) -> Timing:
        """Let it do a work so many times."""
        if self._process.stdin is None:
            raise AssertionError("the process was started with a pipe")
        print(json.dumps([work, times]), file=self._process.stdin, flush=True)
        return Timing(*self._answer())

    def _answer(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit("a checkout's process ended; what it wrote before says why")
        return json.loads(line)


@contextmanager
def sides(first: Path, second: Path, folder: Path, threads: int, share: float) -> Iterator[tuple[Side, Side]]:
    """Two checkouts with the model of `folder`, until the block ends. The first is started first."""
    script = Path(__file__).with_name("works.py")
    arguments = [str(folder.resolve()), str(threads), str(share)]
    with ExitStack() as stack:
        processes = [
            subprocess.Popen(
                # -P: what lies beside the script is one checkout's own.
                [sys.executable, "-P", str(script), *arguments],
                env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for checkout in (first, second)
        ]
        for process in processes:
            stack.enter_context(process)
            stack.callback(process.terminate)
        yield Side(processes[0]), Side(processes[1])


Turns = tuple[list[Timing], list[Timing]]
"""Of the old side and of the new one, pair by pair."""


def take_turns(work: str, old: Side, new: Side, pairs: int) -> Turns:
    """Take turns at a work, after some that prepare what is new to it."""
    for side in (old, new):
        side.timing(work, 1)
    longest = max(side.timing(work, 1).wall for side in (old, new))
    times = max(1, round(_TIMED_SECONDS / longest))
    turns: Turns = [], []
    sides = list(zip((old, new), turns, strict=True))
    for pair in range(pairs):
        for side, timings in sides if pair % 2 else sides[::-1]:
            timings.append(side.timing(work, times))
    return turns


def compare(work: str, turns: Turns) -> Comparison:
    """What the turns at a work say."""
    olds, news = turns
    return Comparison(
        work,
        1e3 * float(np.median([timing.wall for timing in olds])),
        Ratio.of([timing.wall for timing in olds], [timing.wall for timing in news]),
        Ratio.of([timing.processor for timing in olds], [timing.processor for timing in news]),
        _difference(olds[-1].values, news[-1].values),
    )


def _difference(one: Sequence[float], other: Sequence[float]) -> float | None:
    if not one or len(one) != len(other):
        return None
    return float(np.abs(np.array(one) - np.array(other)).max())
