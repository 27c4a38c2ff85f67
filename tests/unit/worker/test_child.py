"""The child between its jobs, and its last guard."""

import logging
import os
import sys
from threading import Thread

import pytest

from tests.integration.explanations import wait_for
from worker import child
from worker.child import perform
from worker.protocol import Ended, Run, encode


def test_an_explanation_that_nobody_can_settle_counts_as_lost(caplog):
    def run(explanation_id: str) -> Ended:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        assert perform(run, "1") == Ended("lost")
    assert "ZeroDivisionError" in caplog.text


def test_what_asks_for_its_end_is_let_through():
    def run(explanation_id: str) -> Ended:
        raise SystemExit

    with pytest.raises(SystemExit):
        perform(run, "1")


def test_jobs_come_before_imports_that_few_of_them_need(monkeypatch):
    reads, writes = os.pipe()
    taken = []
    monkeypatch.setattr(child, "SELDOM_NEEDED", ("antigravity.never", "this.neither"))
    monkeypatch.setattr(child, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(child.importlib, "import_module", taken.append)
    with os.fdopen(reads, "rb") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        os.write(writes, encode(Run("1")) + encode(Run("2")))
        follows = Thread(target=lambda: taken.extend(child.received()))
        follows.start()
        wait_for(lambda: len(taken) == 4)
        os.write(writes, encode(Run("3")))
        os.close(writes)
        follows.join()
    assert taken == [Run("1"), Run("2"), "antigravity.never", "this.neither", Run("3")]
