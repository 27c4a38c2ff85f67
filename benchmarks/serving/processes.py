"""Servers and workers in processes of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from deploy.redis import RedisServer
from gloss import v1 as pb
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    address: str
    pid: int
    start_seconds: float
    """From its process's start to its first answer."""

    def resident_bytes(self) -> int:
        """Memory that the process has in use now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def processor_seconds(self) -> tuple[float, float]:
        """Processor time so far, of all its threads and of the first one, where a server's event loop runs."""
        taken = {
            thread.name: int((thread / "schedstat").read_text().split()[0]) / 1e9
            for thread in Path(f"/proc/{self.pid}/task").iterdir()
        }
        return sum(taken.values()), taken[str(self.pid)]


@contextmanager
def serving(command: Sequence[str], **environment: str) -> Iterator[Served]:
    """A server in a process of its own, until the block ends. "PORT" in the command stands for its port."""
    port = _free_port()
    began = time.perf_counter()
    process = subprocess.Popen(
        [part.replace("PORT", str(port)) for part in command],
        env={**os.environ, "GLOSS_PORT": str(port), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"127.0.0.1:{port}"
    try:
        with grpc.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 50)]) as channel:
            request = pb.NextTokenRequest(prompts=[pb.Prompt(token_ids=pb.TokenIds(ids=[5, 6, 7]))])
            InferenceServiceStub(channel).NextToken(request, wait_for_ready=True, timeout=180)
            seconds = time.perf_counter() - began
        yield Served(address, process.pid, seconds)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def gloss(folder: Path, threads: int, **environment: str) -> Iterator[Served]:
    """`python -m server`."""
    settings = {
        "GLOSS_MODEL": str(folder),
        "GLOSS_METRICS_PORT": "0",
        "GLOSS_THREADS": str(threads),
        "GLOSS_REDIS_URL": "unix:///nowhere/redis.sock",
        **environment,
    }
    with serving([sys.executable, "-m", "server"], **settings) as served:
        yield served


@contextmanager
def plain(folder: Path, threads: int) -> Iterator[Served]:
    """`benchmarks.plain_server`."""
    command = [sys.executable, "-m", "benchmarks.plain_server", str(folder), "PORT"]
    with serving(command, OMP_NUM_THREADS=str(threads)) as served:
        yield served


@contextmanager
def worker(folder: Path, threads: int, state: Path, **more: str) -> Iterator[str]:
    """Redis and `python -m worker`; Redis's URL."""
    with RedisServer(state) as redis:
        environment = {
            **os.environ,
            "GLOSS_REDIS_URL": redis.url,
            "GLOSS_MODEL": str(folder),
            "GLOSS_WORKER_METRICS_PORT": "0",
            "GLOSS_THREADS": str(threads),
            **more,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "worker"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            if process.stdout is None or not process.stdout.readline().startswith(b"ready"):
                raise SystemExit("the worker did not start")
            yield redis.url
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
