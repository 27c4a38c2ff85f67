"""Gloss on one machine: Redis, the server and its workers under one roof, until Ctrl-C. ``python -m deploy.stack``.

Everything it starts ends with it: in order when it is asked to stop, and by the kernel's hand when it is killed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from deploy.probe import NotServingError, check_grpc
from deploy.process import Child, StartError
from deploy.redis import RedisNotFoundError, RedisServer
from deploy.settings import PortTakenError, Settings, without_password
from deploy.state import FolderTakenError, hold
from jobs.start import unknown_variables

CHECKOUT = Path(__file__).parents[1]
STATE = CHECKOUT / ".gloss"
EXPLANATIONS = "gloss.v1.ExplanationService"

# A model from the hub may have to be downloaded first.
READY_SECONDS = 600
STOP_SECONDS = 10


class Interrupted(BaseException):
    """Somebody asked the stack to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Stack:
    """The processes. A context manager that starts them and waits until all are ready; `lock` is handed to each."""

    def __init__(self, settings: Settings, state: Path, lock: int, console: Console) -> None:
        self.settings = settings
        self.state = state
        self.console = console
        self._lock = lock
        self._redis: RedisServer | None = None
        self.redis_url: str = settings.redis_url
        self.server: Child | None = None
        self.workers: list[Child] = []
        self.address = ""
        self.metrics: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        if not self.redis_url:
            self._redis = RedisServer(self.state / "redis", pass_fds=[self._lock])
            with self._progress("Redis"):
                self._redis.start()
            self.redis_url = self._redis.url
        # All at once: each needs seconds to import torch and to load its model.
        self.server = self._program("server")
        for index, model in enumerate(self.settings.models):
            port = self.settings.worker_metrics_port if index == 0 else 0
            self.workers.append(
                self._program(
                    "worker", f"worker {Path(model).name}", GLOSS_MODEL=model, GLOSS_WORKER_METRICS_PORT=str(port)
                )
            )
        with self._progress(f"server, loading {self.settings.model}"):
            ready = self.server.wait_ready(READY_SECONDS)
            self.address = reachable(ready["grpc"])
            self.metrics["server"] = reachable(ready["metrics"])
        for worker in self.workers:
            with self._progress(worker.name):
                self.metrics[worker.name] = reachable(worker.wait_ready(READY_SECONDS)["metrics"])
        with self._progress("explanations"):
            self._wait_for_explanations(30)

    def _program(self, module: str, name: str | None = None, **env: str) -> Child:
        name = name or module
        path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
        log = self.state / "logs" / f"{name.replace(' ', '-')}.log"
        return Child(
            name,
            [sys.executable, "-m", module],
            log,
            {**os.environ, "PYTHONPATH": path, "GLOSS_REDIS_URL": self.redis_url, **env},
            pass_fds=[self._lock],
        )

    def _wait_for_explanations(self, timeout: float) -> None:
        """The server looks for live workers about once a second."""
        deadline = time.monotonic() + timeout
        while True:
            self.check()
            try:
                return check_grpc(self.address, EXPLANATIONS)
            except NotServingError as error:
                if time.monotonic() > deadline:
                    raise StartError(f"explanations are not served after {timeout:.0f} s: {error}") from None
            time.sleep(0.1)

    @contextmanager
    def _progress(self, what: str) -> Iterator[None]:
        """A spinner while something starts, and a line once it is ready."""
        began = time.monotonic()
        with self.console.status(Text(f"starting {what} …")):
            yield
        self.console.print(Text.assemble(("✓", "green"), f" {what} ", (f"{time.monotonic() - began:.1f} s", "dim")))

    def check(self) -> None:
        """Raise `StartError` if any process has ended."""
        for child in self._children():
            child.check()

    def serve(self) -> NoReturn:
        """Watch over the processes until a signal comes or one of them ends."""
        while True:
            self.check()
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop all processes: first those that take jobs, last the store that they write to."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)  # a second Ctrl-C changes nothing; every wait below has its end
        grace = self.settings.grace_seconds + STOP_SECONDS
        with self.console.status("stopping …"):
            for child in self._children():
                if child.exit_code() is None and not child.stop(grace):
                    line = f"the {child.name} ignored SIGTERM for {grace:.0f} s and was killed"
                    self.console.print(line, style="yellow")
            if self._redis is not None:
                self._redis.stop()

    def _children(self) -> Iterator[Child]:
        yield from self.workers
        if self.server is not None:
            yield self.server
        if self._redis is not None and self._redis.child is not None:
            yield self._redis.child

    def announce(self) -> None:
        """Print where everything is."""
        self.console.print(f"\nGloss serves {self.settings.model} at", style="bold")
        lines = [("gRPC", self.address), *((f"metrics, {name}", _page(at)) for name, at in self.metrics.items())]
        lines += [("Redis", without_password(self.redis_url)), ("logs", str(self.state / "logs"))]
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            self.console.print(Text.assemble(f"  {name:<{width}}  ", (value, "cyan")), soft_wrap=True)


def _page(address: str) -> str:
    return f"http://{address}/metrics"


def reachable(address: str) -> str:
    """HOST:PORT that a client on this machine can use, where the server listens on every address."""
    host, _, port = address.rpartition(":")
    return {"0.0.0.0": f"127.0.0.1:{port}", "[::]": f"[::1]:{port}", "::": f"[::1]:{port}"}.get(host, address)  # noqa: S104


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signum)


def run(state: Path, once_ready: Callable[[Stack], None] = Stack.announce, *, once: bool = False) -> int:
    """Start the stack, call `once_ready`, and serve until a signal comes, or return at once where `once` is set.

    Returns the exit code: 0 after a signal while serving, 2 for what the caller has to change, else 1 or above.
    """
    # Nothing is markup: names of models and folders may hold brackets and colons.
    console = Console(highlight=False, markup=False, emoji=False)
    errors = Console(stderr=True, highlight=False, markup=False, emoji=False)
    serving = False
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        settings = Settings()
        for warning in unknown_variables(os.environ):
            errors.print(f"warning: {warning}", style="yellow", soft_wrap=True)
        with hold(state) as lock:  # before the ports: it knows who has them, where another stack does
            settings.check_ports()
            with Stack(settings, state, lock, console) as stack:
                once_ready(stack)
                if not once:
                    serving = True
                    console.print("\nCtrl-C stops it.")
                    stack.serve()
    except Interrupted as interrupted:
        return 0 if serving else 128 + interrupted.signum
    except ValidationError as error:
        for item in error.errors(include_input=False, include_url=False):
            errors.print(
                f"error: GLOSS_{str(item['loc'][0]).upper()}: {item['msg'].removeprefix('Value error, ')}", style="red"
            )
        return 2
    except (PortTakenError, FolderTakenError, RedisNotFoundError) as error:
        errors.print(f"error: {error}", style="red", soft_wrap=True)
        return 2
    except StartError as error:
        errors.print(f"error: {error}", style="red", soft_wrap=True)
        return error.exit_code if error.exit_code and error.exit_code > 0 else 1
    return 0


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The options that the stack and the demo share."""
    options = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    options.add_argument("--state", type=Path, default=STATE, help="folder for data, logs and the lock (%(default)s)")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    options = parser("deploy.stack", "Run Redis, the server and its workers until Ctrl-C.").parse_args(arguments)
    return run(options.state.absolute())


if __name__ == "__main__":
    sys.exit(main())
