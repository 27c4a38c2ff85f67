"""``python -m worker.fork_server PARENT MODULE``: a warm process from which children with a model are forked.

Importing torch and transformers takes seconds, loading a small model a fraction of one. So this process imports
everything once, holds no model, runs no operation of torch and starts no thread, and forks a child whenever the worker
asks for one: a child that died is replaced as fast as its model loads. Memory of the imports is shared with the child.

The worker talks to it over a socket, which is this process's standard input; see `worker.protocol`. It ends with the
worker, and its children end with it, even by kill -9.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType

from ml.memory import without_collections
from worker.protocol import Exited, Fork, Forked, Lines, Message, Signal, encode

_PR_SET_PDEATHSIG = 1
_FORKS = sys.platform == "linux"
"""Elsewhere the system's own libraries may not survive a fork, so children start from nothing."""


def main() -> int:
    """Import MODULE and what its function `preload` imports, then fork children until the worker closes the socket."""
    parent, name = int(sys.argv[1]), sys.argv[2]
    die_with(parent)
    ignore_signals()
    # BLAS libraries start their threads when they are imported, and threads do not survive a fork.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Asked for a GPU, CUDA's runtime would start a context here, with which no child can work.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    with without_collections():
        program = importlib.import_module(name)
        if _FORKS and hasattr(program, "preload"):
            program.preload()
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page with an object on it
    _Server(socket.socket(fileno=0), program).serve()
    return 0


def die_with(parent: int) -> None:
    """Let the kernel kill this process when `parent`, which must have started it, ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before prctl was called
        os._exit(1)


def ignore_signals() -> None:
    """Leave Ctrl-C and an orchestrator's SIGTERM, which may reach the whole process group, to the worker."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Server:
    """Forks children of `program`, passes signals on to them, and reports how they ended."""

    def __init__(self, control: socket.socket, program: ModuleType) -> None:
        self._control = control
        self._program = program
        self._lines = Lines()
        self._descriptors: list[int] = []
        self._running: set[int] = set()

    def serve(self) -> None:
        """Serve until the worker closes the socket."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)
        while True:
            ready, _, _ = select.select([self._control.fileno(), woken], [], [])
            if woken in ready:
                os.read(woken, 4096)
                self._reap()
            if self._control.fileno() in ready and not self._receive():
                return

    def _receive(self) -> bool:
        """Do what the worker asks. Returns False when it has closed the socket."""
        received, descriptors, _, _ = socket.recv_fds(self._control, 65536, 16)
        if not received:
            return False
        self._descriptors += descriptors
        for message in self._lines.feed(received):
            if isinstance(message, Fork):
                stdin, stdout = self._descriptors[:2]
                del self._descriptors[:2]
                self._start(message.arguments, stdin, stdout)
            elif isinstance(message, Signal) and message.pid in self._running:
                os.kill(message.pid, message.number)
        return True

    def _start(self, arguments: Sequence[str], stdin: int, stdout: int) -> None:
        if _FORKS:
            pid = self._fork(arguments, stdin, stdout)
        else:
            command = [sys.executable, "-m", self._program.__name__, *arguments]
            pid = subprocess.Popen(command, stdin=stdin, stdout=stdout).pid  # noqa: S603 - our own program
        os.close(stdin)
        os.close(stdout)
        self._running.add(pid)
        self._send(Forked(pid))

    def _fork(self, arguments: Sequence[str], stdin: int, stdout: int) -> int:
        server = os.getpid()
        if pid := os.fork():
            return pid
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with(server)
            self._control.close()
            os.dup2(stdin, 0)
            os.dup2(stdout, 1)
            os.close(stdin)
            os.close(stdout)
            random.seed()
            sys.argv[1:] = arguments
            code = self._program.main() or 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - whatever it is, only the child ends
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stderr.flush()
            # Not sys.exit: torch takes seconds to shut down, and everything is written by now.
            os._exit(code)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._running.discard(pid)
                self._send(Exited(pid, os.waitstatus_to_exitcode(status)))

    def _send(self, message: Message) -> None:
        with suppress(OSError):  # the worker is gone, and this process soon
            self._control.sendall(encode(message))


if __name__ == "__main__":
    sys.exit(main())
