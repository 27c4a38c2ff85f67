"""A folder that belongs to one running stack at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.process import POLL_SECONDS


class FolderTakenError(Exception):
    """Another stack runs on this folder."""

    def __init__(self, folder: Path, owner: int | None) -> None:
        who = f"process {owner}" if owner else "another process"
        super().__init__(f"{who} already runs on {folder}: stop it first (Ctrl-C in its terminal)")


@contextmanager
def hold(folder: Path, patience: float = 20) -> Iterator[int]:
    """Own `folder` while the block runs, and yield the lock's file descriptor.

    The lock cannot go stale: the kernel drops it when the last process ends that has the descriptor open. Pass it to
    child processes, so that data which a child may still be writing are not touched by the next owner. When the owner
    itself is gone and only its children are still stopping, this waits for them, at most `patience` seconds.

    Raises:
        FolderTakenError: somebody else owns it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with (folder / "lock").open("a+b", buffering=0) as file:
        while not _lock(file.fileno()):
            owner = _read_owner(file.fileno())
            if owner is None or _runs(owner) or time.monotonic() > deadline:
                raise FolderTakenError(folder, owner)
            time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        yield file.fileno()


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_owner(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0)
    return int(text) if text.isdigit() else None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as somebody else
        return True
    return True
