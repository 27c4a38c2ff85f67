"""Work for helper processes, which import it from here."""

from __future__ import annotations

import os
import signal
from typing import Any


def process_of(_: Any) -> int:
    return os.getpid()


def parent_of(_: Any) -> int:
    return os.getppid()


def forever(_: Any, name: str) -> None:
    with open(name, "w") as file:
        file.write(str(os.getpid()))
    os.rename(name, f"{name}.begun")
    signal.pause()


def die(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(_: Any) -> None:
    raise ValueError("no")


def unsendable(_: Any) -> Any:
    return lambda: None
