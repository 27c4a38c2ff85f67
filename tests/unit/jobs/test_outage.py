"""What is logged of a Redis that fails, and how long it is waited for."""

import logging

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

from jobs import outage
from jobs.outage import Outage, is_of_another_type, pause


@pytest.fixture
def said(caplog):
    with caplog.at_level(logging.INFO, logger="test"):
        yield lambda: [record.message for record in caplog.records]


@pytest.fixture
def seen():
    return Outage(logging.getLogger("test"))


def test_pauses_grow_to_a_bound_and_differ():
    for failures in range(200):
        longest = min(5.0, 0.1 * 2.0 ** min(failures, 10))
        pauses = {pause(failures) for _ in range(20)}
        assert len(pauses) > 1
        assert all(longest / 2 <= seconds <= longest for seconds in pauses)
    assert pause(10**9, longest=60.0) >= 30


def test_an_outage_is_two_lines(said, seen):
    seen.passed("write")
    for _ in range(100):
        seen.failed("write", OutOfMemoryError("OOM command not allowed"))
        seen.failed("read", RedisConnectionError("gone"))
        seen.passed("read")  # one part of the process gets through, another does not
    seen.passed("write")
    seen.passed("write")
    first, last = said()
    assert first.startswith("Redis refuses: OOM command not allowed")
    assert last == "Redis answers again"


def test_the_next_outage_is_told_too(said, seen):
    for error in (RedisConnectionError("refused"), ResponseError("MISCONF no disk")):
        seen.failed("write", error)
        seen.passed("write")
    assert [line.split(":")[0] for line in said()[::2]] == ["Redis cannot be reached", "Redis refuses"]
    assert said()[1::2] == ["Redis answers again"] * 2


def test_a_step_that_is_not_tried_again_keeps_no_outage_going(said, seen, monkeypatch):
    seen.failed("seldom", RedisConnectionError("gone"))
    seen.passed("often")
    assert len(said()) == 1
    monkeypatch.setattr(outage, "_LATELY_SECONDS", 0)
    seen.passed("often")
    assert said()[1] == "Redis answers again"


def test_long_errors_are_cut(said, seen):
    seen.failed("write", ResponseError("x" * 100_000))
    assert len(said()[0]) < 1000


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), True),
        (ResponseError("Error running script (call to f_0): @user_script:3: WRONGTYPE Operation against"), True),
        (OutOfMemoryError("OOM command not allowed"), False),
        (RedisConnectionError("WRONGTYPE"), False),
    ],
)
def test_a_key_of_another_type_is_known(error, found):
    assert is_of_another_type(error) is found
