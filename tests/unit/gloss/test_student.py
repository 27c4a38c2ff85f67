"""Intervals of another level than the one that they came with."""

from __future__ import annotations

import pytest
from scipy import stats

from gloss.student import widened
from ml.explain.sampling.interval import two_sided_95


@pytest.mark.parametrize("freedom", [1, 2, 5, 9, 40, 1000, float("inf")])
@pytest.mark.parametrize("level", [0.5, 0.99, 0.9999, 1 - 1e-9])
def test_an_interval_of_one_level_becomes_one_of_another(freedom: float, level: float) -> None:
    reach = float(stats.t.ppf(0.975, freedom))
    assert widened(reach, 0.95, level) == pytest.approx(stats.t.isf((1 - level) / 2, freedom), rel=1e-6)


@pytest.mark.parametrize("freedom", range(1, 30))
def test_the_reach_that_results_carry_tells_the_degrees_of_freedom(freedom: int) -> None:
    expected = stats.t.isf(0.05 / 2 / 60, freedom)
    assert widened(two_sided_95(freedom), 0.95, 1 - 0.05 / 60) == pytest.approx(expected, rel=5e-3)
