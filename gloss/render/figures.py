"""Numbers as text: values with their sign and precision, shares, errors and durations."""

from __future__ import annotations

import math

from gloss import v1

WithError = v1.FeatureAttribution | v1.Interaction | v1.WordCoefficient | v1.GroupDifference | v1.HierarchyNode


class Percent(int):
    """The number of decimals of a share, which is shown in per cent and without a sign."""


def signed(value: float, digits: int = 2) -> str:
    """``+1.25`` or ``−1.25``, with a typographic minus sign, and none for zero. With `Percent`, ``7.0%``."""
    if isinstance(digits, Percent):
        least = 10.0**-digits  # per cent
        return f"<{number(least, int(digits))}%" if 0 < value < least / 200 else f"{100 * value:.{digits}f}%"
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if float(text.replace("−", "-")) == 0 else text


def number(value: float, digits: int = 2) -> str:
    """``1.25`` or ``−1.25``, with a typographic minus sign."""
    return signed(value, digits).removeprefix("+")


def uncertainty(part: WithError, digits: int = 2) -> str:
    """A standard error: ``± 1.25``, ``exact`` for 0, or that it is unknown."""
    if not part.HasField("standard_error"):
        return "± unknown"
    if (error := part.standard_error) == 0:
        return "exact"
    least = 10.0**-digits
    return f"± <{number(least, digits)}" if error < least / 2 else f"± {number(error, digits)}"


def interval(part: v1.FeatureAttribution | v1.GroupDifference, digits: int = 2) -> str:
    """``−0.10 to +1.25``; empty if the ends are unknown or equal."""
    found = part.interval
    if not part.HasField("interval") or found.lower == found.upper:
        return ""
    return f"{signed(found.lower, digits)} to {signed(found.upper, digits)}"


def percent(share: float) -> str:
    """A share as ``41.2%``; ``<0.1%`` instead of 0.0%, and ``>99.9%`` instead of 100.0%."""
    if 0 < share < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= share < 1 else f"{100 * share:.1f}%"


def decimals(largest_value: float) -> int:
    """Decimals that show three figures of a number, from 2 to 6."""
    if not largest_value or not math.isfinite(largest_value):
        return 2
    return min(6, max(2, 2 - math.floor(math.log10(largest_value))))


def duration(time: float) -> str:
    """Seconds as ``12 ms``, ``1.3 s``, ``2 min 5 s``, ``22 h 53 min``, ``3 d 4 h``."""
    if time < 0.9995:
        return f"{1000 * time:.0f} ms"
    if time < 59.95:
        return f"{time:.1f} s"
    whole = round(time)
    if whole >= 86400:
        return f"{whole // 86400:,} d {whole % 86400 // 3600} h"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole >= 3600 else f"{whole // 60} min {whole % 60} s"


def age(seconds: float) -> str:
    """``12 s``, ``5 min``, ``3 h``, ``2 d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
