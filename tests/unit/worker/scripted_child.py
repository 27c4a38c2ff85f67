"""A child without a model, that does what its first argument says. It keeps the protocol and the store's rules."""

import os
import signal
import sys
import time

from gloss import v1 as pb
from jobs.attempts import AttemptStore
from jobs.connection import connect
from jobs.errors import DataCorruptError
from worker.model_process import INTERRUPT
from worker.protocol import Began, Ended, Message, Ready, Refused, encode


class Interrupted(BaseException):
    pass


def interrupt(*_: object) -> None:
    raise Interrupted


def say(message: Message) -> None:
    os.write(1, encode(message))


def perform(behaviour: str, store: AttemptStore, explanation_id: str) -> Ended:
    if behaviour == "long":  # before it can be seen to run
        signal.signal(INTERRUPT, interrupt)
    try:
        return explain(behaviour, store, explanation_id)
    except Interrupted:
        signal.signal(INTERRUPT, signal.SIG_IGN)
        return Ended("interrupted")


def explain(behaviour: str, store: AttemptStore, explanation_id: str) -> Ended:
    try:
        attempt = store.begin(explanation_id)
    except DataCorruptError:
        return Ended("failed")
    if attempt is None:
        return Ended("skipped")
    say(Began("lime", attempt.waited_seconds))
    if behaviour == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour in {"give way", "die giving way"} and attempt.checkpoint is None:
        store.give_way(attempt, b"half")
        if behaviour == "die giving way":
            os.kill(os.getpid(), signal.SIGKILL)
        return Ended("yielded", 0.5)
    if behaviour == "unresponsive" or (behaviour == "unresponsive once" and attempt.number == 1):
        signal.signal(INTERRUPT, signal.SIG_IGN)
        time.sleep(60)
    if behaviour == "long":
        time.sleep(60)
    if behaviour == "overtaken":  # by another worker's attempt
        store.begin(explanation_id)
        return Ended("overtaken")
    if behaviour == "forget":  # a child with a bug, that says it is done and is not
        return Ended("succeeded")
    store.succeed(attempt, pb.ExplanationResult(text="found"))
    return Ended("succeeded", 0.5, 10, 20, 30)


def main() -> None:
    behaviour, url = sys.argv[1:3]
    signal.signal(INTERRUPT, signal.SIG_IGN)
    if behaviour == "refuse":
        say(Refused("no such model"))
        return
    if behaviour == "raise":
        raise ZeroDivisionError
    if behaviour == "crash":
        sys.exit(3)
    if behaviour == "die loading twice" and connect(url).incr("loads") <= 2:
        os.kill(os.getpid(), signal.SIGKILL)
    say(Ready("tiny", "d" * 64, 0.25))
    store = AttemptStore(connect(url), max_attempts=3)
    for line in sys.stdin:
        say(perform(behaviour, store, line.split('"')[-2]))


if __name__ == "__main__":
    main()
