"""What verification found, shared by processes that load the same model at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ml.models.verification import stored
from ml.models.verification.verify import Ways

FOUND = Ways(padded=7, unused="nothing")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(stored, "_PAUSE_SECONDS", 0.001)


def load(verify: Callable[[], Ways]) -> Ways:
    return stored.load_or_verify("digest", torch.device("cpu"), torch.float32, verify)


def never() -> Ways:
    raise AssertionError("it was verified already")


class Slow:
    """A verification that goes on until it is let through."""

    def __init__(self, found: Ways | Exception = FOUND) -> None:
        self.begun, self.through = threading.Event(), threading.Event()
        self._found = found

    def __call__(self) -> Ways:
        self.begun.set()
        assert self.through.wait(60)
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


def both(pool: ThreadPoolExecutor, first: Slow, second: Callable[[], Ways]) -> tuple[Future[Ways], Future[Ways]]:
    """Two loads, of which the second comes while the first one verifies."""
    one = pool.submit(load, first)
    assert first.begun.wait(60)
    return one, pool.submit(load, second)


def test_what_was_found_is_kept() -> None:
    assert load(lambda: FOUND) == FOUND
    assert load(never) == FOUND


def test_one_verifies_and_the_other_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    slow = Slow()
    with ThreadPoolExecutor() as pool:
        one, other = both(pool, slow, never)
        while "waiting for what it finds" not in caplog.text:
            with pytest.raises(TimeoutError):
                other.result(0.01)
        slow.through.set()
        assert one.result() == other.result() == FOUND


def test_the_other_verifies_where_the_first_one_fails() -> None:
    slow = Slow(MemoryError())
    with ThreadPoolExecutor() as pool:
        one, other = both(pool, slow, lambda: FOUND)
        slow.through.set()
        with pytest.raises(MemoryError):
            one.result()
        assert other.result() == FOUND


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_WAIT_SECONDS", 0.05)
    slow = Slow()
    with ThreadPoolExecutor() as pool:
        one, other = both(pool, slow, lambda: FOUND)
        assert other.result() == FOUND
        slow.through.set()
        assert one.result() == FOUND


def test_where_nothing_can_be_kept_each_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load(lambda: FOUND) == load(lambda: FOUND) == FOUND
