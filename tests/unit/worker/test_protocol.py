"""The words between the worker's two processes."""

import os

import pytest

from worker.protocol import Began, Ended, Inbox, Ready, Refused, Run, decode, encode

MESSAGES = [
    Run("1"),
    Ready("tiny", "d", 0.5),
    Refused('no "model"\nhere'),
    Began("lime", 0.25),
    Ended("failed", 1.5, 7),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_lines(message):
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_inbox_gives_messages_however_they_arrive(pipe):
    reading, writing = pipe
    inbox = Inbox(reading)
    assert inbox.receive(0) is None
    together = b"".join(map(encode, MESSAGES))
    os.write(writing, together[:10])
    assert inbox.receive(0) is None
    os.write(writing, together[10:])
    assert [inbox.receive(0) for _ in MESSAGES] == MESSAGES
    assert inbox.receive(0) is None
    os.close(writing)
    with pytest.raises(EOFError):
        inbox.receive(0)
