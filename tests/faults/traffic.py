"""Callers that go on asking, and note what came of each call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from gloss import v1 as pb
from tests.faults.stack import Stack
from tests.integration.explanations import lime

TEXT = "The capital of France is"
QUESTION = "The capital of France is Paris, and the capital of Italy is Rome."


@dataclass(frozen=True)
class Sample:
    """One call: when it began (monotonic), how long it took, its code, and its reply if there was one."""

    began: float
    seconds: float
    code: grpc.StatusCode
    reply: Any = None

    @property
    def ok(self) -> bool:
        """Whether it was answered."""
        return self.code is grpc.StatusCode.OK


class Traffic(threading.Thread):
    """Asks until stopped, with a pause between two calls. A context manager."""

    def __init__(self, ask: Callable[[], Any], pause: float) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._ask, self._pause = ask, pause
        self._stopped = threading.Event()

    def run(self) -> None:
        """Ask."""
        while not self._stopped.wait(self._pause):
            self.samples.append(timed(self._ask))

    def stop(self) -> None:
        """Stop after the call under way."""
        self._stopped.set()
        self.join()

    def since(self, began: float) -> list[Sample]:
        """Calls that began at or after a time."""
        return [sample for sample in list(self.samples) if sample.began >= began]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def timed(ask: Callable[[], Any]) -> Sample:
    """One call, timed."""
    began = time.monotonic()
    try:
        reply, code = ask(), grpc.StatusCode.OK
    except grpc.RpcError as error:
        reply, code = None, error.code()
    return Sample(began, time.monotonic() - began, code, reply)


def next_tokens(stack: Stack, pause: float = 0.02, timeout: float = 10) -> Traffic:
    """Callers of NextToken."""
    request = pb.NextTokenRequest(prompts=[pb.Prompt(text=TEXT)])
    return Traffic(lambda: stack.inference.NextToken(request, timeout=timeout), pause)


def explanations(stack: Stack, evaluations: int = 20, pause: float = 0.1, timeout: float = 5) -> Traffic:
    """Callers of CreateExplanation, each time for another one."""
    seed = 0

    def ask() -> pb.Explanation:
        nonlocal seed
        seed += 1
        request = pb.CreateExplanationRequest(spec=lime(evaluations, seed=seed, text=QUESTION), fresh=True)
        return stack.explanations.CreateExplanation(request, timeout=timeout)

    return Traffic(ask, pause)
