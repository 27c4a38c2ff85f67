"""Servers and stores that the tests of several files share."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

import ml.models.loading
from jobs import names
from jobs.attempts import AttemptStore
from jobs.connection import connect
from jobs.store import ExplanationStore
from ml.models.base import LanguageModel
from tests.integration.serving import Gate, Served, serve


@pytest.fixture(scope="session")
def served(tiny_llama_chat: Path, tiny_gpt2: Path, tiny_lstm: Path) -> Iterator[Served]:
    """Three models, tiny-llama-chat the default, and no Redis at all."""
    with serve([tiny_llama_chat, tiny_gpt2, tiny_lstm]) as server:
        yield server


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Holds up the models of servers that are started after it."""
    gate = Gate()
    monkeypatch.setattr(ml.models.loading, "load", gate.load)
    yield gate
    gate.open.set()


@pytest.fixture
def gated(gate: Gate, tiny_gpt2: Path) -> Callable[..., AbstractContextManager[Served]]:
    """Start a server of tiny-gpt2 behind the gate, with settings of the test's own."""

    def start(**settings: Any) -> AbstractContextManager[Served]:
        return serve([tiny_gpt2], **settings)

    return start


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    """A client of an empty Redis."""
    with connect(redis_url, patient=False) as client:
        yield client


@pytest.fixture
def gpt2_worker(redis_url: str, client: Redis, load_model: Callable[[Path], LanguageModel], tiny_gpt2: Path) -> str:
    """The address of an empty Redis to which a worker of tiny-gpt2 seems to be connected."""
    digest = load_model(tiny_gpt2).info.digest
    AttemptStore(client).heartbeat(names.queue("tiny-gpt2"), digest, "test-worker", 600)
    return redis_url


@pytest.fixture
def store(client: Redis) -> ExplanationStore:
    """Explanations as their callers see them, kept for a minute."""
    return ExplanationStore(client, retention_seconds=60)


@pytest.fixture
def attempts(client: Redis) -> AttemptStore:
    """Explanations as a worker sees them; three of its attempts may be lost."""
    return AttemptStore(client, retention_seconds=60, max_attempts=3)
