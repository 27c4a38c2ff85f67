from itertools import pairwise

import numpy as np
import pytest

from ml.explain.explainers.quadrature import clenshaw_curtis, gauss_legendre, nested


@pytest.mark.parametrize("intervals", [1, 2, 3, 6, 7, 12, 48, 96])
def test_polynomials_of_as_many_intervals_are_integrated_exactly(intervals):
    points, weights = clenshaw_curtis(intervals)
    assert (weights > 0).all()
    assert points == pytest.approx(np.sort(points))
    for degree in range(intervals + 1):
        assert weights @ points**degree == pytest.approx(1 / (degree + 1), abs=1e-12)


@pytest.mark.parametrize("points", [1, 2, 5, 50])
def test_gauss_and_legendre_reach_twice_as_far(points):
    at, weights = gauss_legendre(points)
    for degree in range(2 * points):
        assert weights @ at**degree == pytest.approx(1 / (degree + 1), abs=1e-12)


def test_a_finer_rule_has_the_points_of_the_coarser_one():
    rules = [clenshaw_curtis(intervals)[0] for intervals in nested(400)]
    assert len(rules) > 5
    for coarse, fine in pairwise(rules):
        assert fine[::2] == pytest.approx(coarse, abs=1e-14)


@pytest.mark.parametrize("limit", [0, 7, 12, 13, 48, 49, 50, 1000])
def test_rules_are_within_the_limit_and_fill_half_of_it(limit):
    first, second, *_ = sizes = nested(limit)
    assert second == 2 * first
    assert sizes[-1] + 1 <= max(limit, second + 1)
    assert 2 * sizes[-1] + 1 > limit
