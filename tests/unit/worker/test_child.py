"""The child's last guard."""

import logging

import pytest

from worker.child import perform
from worker.protocol import Ended


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
