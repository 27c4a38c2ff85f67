"""Half the width of a 95 % confidence interval, in standard errors."""

from __future__ import annotations

_Z = 1.959963984540054
_FEW = {1: 12.706204736432095, 2: 4.302652729696144}

# Terms of 1/ν, 1/ν², ... in the quantile of Student's t (Fisher & Cornish 1960; Abramowitz & Stegun 26.7.5).
_TERMS = (
    (_Z**3 + _Z) / 4,
    (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96,
    (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384,
    (79 * _Z**9 + 776 * _Z**7 + 1482 * _Z**5 - 1920 * _Z**3 - 945 * _Z) / 92160,
)


def two_sided_95(freedom: float) -> float:
    """The 97.5 % quantile of Student's t with `freedom` degrees, a whole number from 1, or infinity for the normal's.

    Within 0.2 % for 3 degrees of freedom, and much closer for more.
    """
    if freedom in _FEW:
        return _FEW[int(freedom)]
    return _Z + sum(term / freedom**power for power, term in enumerate(_TERMS, start=1))
