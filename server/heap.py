"""Memory that a crowd of large messages leaves in the heap goes back to the system.

gRPC reads messages in several threads, each with a heap of its own, and glibc keeps what lies between things in use.
One crowd after the other, each of a hundred calls with 4 MB, a server grew by 300 MB a crowd, to seven times its size.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from ml.memory import give_back

_SECONDS = 5.0
"""Between two looks."""

_MAX_KEPT_BYTES = 1 << 30
"""To give back a gigabyte takes a fifth of a second, in which other threads may wait."""


def resident_bytes() -> int:
    """Memory that this process has in use, or keeps; 0 where that cannot be known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


async def keep_little(
    resident: Callable[[], int] = resident_bytes, free: Callable[[], None] = give_back, seconds: float = _SECONDS
) -> None:
    """Look every few `seconds`, until cancelled, whether memory grew by much, and `free` what nobody uses."""
    least = resident()
    while True:
        await asyncio.sleep(seconds)
        now = resident()
        least = min(least, now)
        if now - least > _MAX_KEPT_BYTES:
            await asyncio.to_thread(free)
            least = now  # it falls at the next look, if little of that is in use
