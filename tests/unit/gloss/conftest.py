"""The scripted server, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gloss import Client
from tests.unit.gloss import fake


@pytest.fixture
def served() -> Iterator[tuple[str, fake.Script]]:
    """A running scripted server: its address and its script."""
    with fake.serve() as running:
        yield running


@pytest.fixture
def address(served: tuple[str, fake.Script]) -> str:
    """Where the scripted server listens."""
    return served[0]


@pytest.fixture
def script(served: tuple[str, fake.Script]) -> fake.Script:
    """What the scripted server says and heard."""
    return served[1]


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """A client of the scripted server."""
    with Client(address, timeout=10) as connected:
        yield connected
