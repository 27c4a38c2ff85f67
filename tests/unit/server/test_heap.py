"""When a server hands memory back to the system."""

from __future__ import annotations

import asyncio

import pytest

from server.heap import keep_little, resident_bytes

GIGABYTE = 1 << 30


@pytest.mark.parametrize(
    ("gigabytes", "freed_at"),
    [
        ([1, 1, 1, 1], []),
        ([1, 1.9, 1.9, 1], []),
        ([1, 2.1, 2.1], [2.1]),
        ([1, 2.1, 3.0, 3.2, 3.2], [2.1, 3.2]),
        ([5, 1, 2.1], [2.1]),
    ],
)
def test_memory_is_freed_once_it_has_grown_by_a_gigabyte(gigabytes: list[float], freed_at: list[float]):
    """Nothing of it can be freed here."""
    sizes = iter(gigabytes)
    freed: list[float] = []
    size = 0.0

    async def scenario() -> None:
        def look() -> int:
            nonlocal size
            try:
                size = next(sizes)
            except StopIteration:
                raise asyncio.CancelledError from None
            return int(size * GIGABYTE)

        with pytest.raises(asyncio.CancelledError):
            await keep_little(look, lambda: freed.append(size), 0.0)

    asyncio.run(scenario())
    assert freed == freed_at


def test_a_process_has_memory_in_use():
    assert resident_bytes() > 10_000_000
