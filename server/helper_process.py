"""What `server.helpers` starts: a warm process that forks another for each piece of work on a large message.

Python runs one thread at a time, so long work in another thread of the server would delay the model's thread. In a
separate process it delays nobody. Its memory is returned to the system when it ends, and it can be stopped at any
moment.

The server talks to this process over a socket, its standard input. It first sends the models, without their weights,
and then a socket for each piece of work, of which it keeps the other end. The forked process reads from that socket
what to do, writes the result, and ends. If the server closes its end, or is killed, the kernel ends the process. This
process has one thread and imports no torch.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ml.errors import GlossError
from ml.models.protocol import ModelInfo
from ml.tokens import Tokenizer

MODULES = ("server.services.conversions",)
"""What is imported before anything is asked."""

_NICENESS = 10
"""Of the work: where the model needs the processor, it gets nine tenths of it."""

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True)
class Described:
    """A model without its weights."""

    info: ModelInfo
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Job:
    """What to do: `function`, which can be imported, called with a model and `arguments`."""

    function: Callable[..., Any]
    model: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of it: a value, or the error in its place."""

    value: Any = None
    error: Exception | None = None


def pack(thing: Any) -> bytes:
    """`thing` as one message of the sockets."""
    data = pickle.dumps(thing)
    return _LENGTH.pack(len(data)) + data


def main() -> None:
    """Fork a process for every socket that comes, until the server closes its own."""
    for number in (signal.SIGINT, signal.SIGTERM):  # for the server, which decides when this ends
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    control = socket.socket(fileno=0)
    for module in MODULES:
        importlib.import_module(module)
    models: Mapping[str, Described] = _receive(control)
    gc.collect()
    gc.freeze()  # a collection in a forked process would write to, and so copy, every page with an object on it
    while True:
        data, descriptors, *_ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        if os.fork() == 0:
            control.close()
            try:
                _work(models, socket.socket(fileno=descriptors[0]))
            finally:
                os._exit(0)
        os.close(descriptors[0])


def _work(models: Mapping[str, Described], connection: socket.socket) -> None:
    """Do what is asked on `connection`, unless it is closed meanwhile."""
    os.nice(_NICENESS)
    job: Job = _receive(connection)
    _end_with(connection)
    try:
        outcome = Outcome(job.function(models[job.model], *job.arguments))
    except Exception as error:  # noqa: BLE001 -- it is raised where the outcome is awaited
        if not isinstance(error, GlossError):
            error.add_note(traceback.format_exc())
        outcome = Outcome(error=error)
    try:
        data = pickle.dumps(outcome)
    except Exception as error:  # noqa: BLE001 -- so is this
        data = pickle.dumps(Outcome(error=RuntimeError(f"{outcome!r:.200} cannot be sent: {error}")))
    fcntl.fcntl(connection, fcntl.F_SETFL, 0)  # the server takes the outcome and hangs up
    connection.sendall(data)


def _end_with(connection: socket.socket) -> None:
    """Let the kernel end this process, by SIGIO, when the other end of `connection` is closed."""
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, os.O_ASYNC)
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    if poll.poll(0):  # it was closed before
        os._exit(1)


def _receive(connection: socket.socket) -> Any:
    """The next message, from the server; the process ends where there is none."""
    [length] = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    return pickle.loads(_exactly(connection, length))  # noqa: S301 -- only the server has the other end


def _exactly(connection: socket.socket, length: int) -> bytearray:
    """The next `length` bytes, and no more: what follows may bring a socket with it."""
    data = bytearray(length)
    view = memoryview(data)
    while view:
        received = connection.recv_into(view)
        if not received:
            os._exit(0)
        view = view[received:]
    return data
