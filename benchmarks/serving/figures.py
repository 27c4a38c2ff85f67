"""One figure, and the statistics that all use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Figure:
    """One way to do one work."""

    work: str
    who: str
    rate: float | None = None
    """Prompts, or generated tokens, a second."""
    p50: float | None = None
    """Milliseconds from a request to its answer."""
    p99: float | None = None
    ratio: float | None = None
    """What the issue at hand compares; `note` says with what."""
    note: str = ""


def percentiles(times: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile of seconds, in milliseconds."""
    p50, p99 = np.percentile(np.array(times) * 1e3, [50, 99])
    return float(p50), float(p99)


def prompts(count: int, vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Token ids, of lengths that spread evenly from 16 to 256, in random order."""
    random = np.random.default_rng(seed)
    lengths = np.resize(np.linspace(16, 256, min(count, 64)).astype(int), count)
    random.shuffle(lengths)
    return [random.integers(2, vocabulary, length).tolist() for length in lengths]
