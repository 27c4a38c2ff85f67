"""Redis, a server and workers as processes of their own, which a scenario may kill, stop and start as it likes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import grpc
import redis

from deploy.process import Child
from deploy.redis import RedisServer
from gloss.v1.explanation_service_pb2_grpc import ExplanationServiceStub
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub
from jobs.connection import connect
from tests.fixtures.processes import environment

T = TypeVar("T")

START_SECONDS = 120.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.005


def wait_for(condition: Callable[[], T], timeout: float = 30) -> T:
    """What `condition` answers once that is true; a failed test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {timeout:g} s in vain"
        time.sleep(POLL_SECONDS)
    return answer


class Stack:
    """A server over a Redis of its own, and as many workers as are started. A context manager."""

    def __init__(self, folder: Path, *, model: str = "transformer", redis_folder: Path | None = None) -> None:
        """Keep logs in `folder`, and Redis's data there too unless set otherwise. Nothing is started yet."""
        self.redis = RedisServer(redis_folder or folder / "redis")
        self.workers: list[Child] = []
        self._folder = folder
        self._model = model
        self._started = 0
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self.redis.start()
        self._closing.callback(self.redis.stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def start_server(self, **settings: str) -> Child:
        """Start the server, and connect to it."""
        self.server = self._start("server", settings)
        ready = self.server.wait_ready(START_SECONDS)
        self.address, self.page = ready["grpc"], ready["metrics"]
        self.channel = self._closing.enter_context(grpc.insecure_channel(self.address))
        self.inference = InferenceServiceStub(self.channel)
        self.explanations = ExplanationServiceStub(self.channel)
        return self.server

    def start_worker(self, *, wait: bool = True, **settings: str) -> Child:
        """Start one more worker."""
        worker = self._start("worker", settings)
        self.workers.append(worker)
        if wait:
            worker.wait_ready(START_SECONDS)
        return worker

    def client(self) -> redis.Redis:
        """A client of Redis."""
        return self._closing.enter_context(connect(self.redis.url, patient=False))

    def _start(self, name: str, settings: dict[str, str]) -> Child:
        self._started += 1
        env = environment(**{"GLOSS_REDIS_URL": self.redis.url, "GLOSS_MODEL": self._model, **settings})
        child = Child(name, [sys.executable, "-m", name], self._folder / f"{name}-{self._started}.log", env)
        self._closing.callback(self._end, child)
        return child

    def _end(self, child: Child) -> None:
        ended = child.exit_code() is not None
        child.stop(STOP_SECONDS)
        print(f"--- {child.name} (pid {child.pid}, exit code {child.exit_code()})\n{child.last_lines(60)}")
        assert ended or child.exit_code() == 0, f"the {child.name} did not end by SIGTERM as it should"


def child_of(worker: Child) -> int | None:
    """The process with a worker's model: the child of its fork server. None where there is none now."""
    fork_server = _only_child(worker.pid)
    return None if fork_server is None else _only_child(fork_server)


def _only_child(pid: int) -> int | None:
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(child)
    return None


def kill(pid: int | None) -> bool:
    """Kill a process. Returns whether it was there."""
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def resident_bytes(pid: int) -> int:
    """Memory that a process has in use now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
