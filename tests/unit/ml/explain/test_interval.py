import math

import pytest

from ml.explain.sampling.interval import two_sided_95


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (10, 2.2281), (30, 2.0423), (math.inf, 1.95996)],
)
def test_it_is_that_of_students_table(freedom, quantile):
    assert two_sided_95(freedom) == pytest.approx(quantile, rel=2e-3)
