"""What the figures were measured on."""

from __future__ import annotations

import platform
from pathlib import Path

from ml.precision import has_fast_bfloat16


def processor() -> str:
    """The processor's name, and whether it has bfloat16 of its own."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {'fast' if has_fast_bfloat16() else 'no fast'} bfloat16"


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []
