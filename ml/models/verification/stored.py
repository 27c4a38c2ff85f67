"""What verification found, kept on disk, so that a process that starts again does not verify again.

A record holds for the same weights, the same code (Gloss's, torch's and transformers'), device and type of numbers; its
name is a digest of them. What cannot be read or written is verified again, silently.

Server and worker often load a new model at the same time: one of them verifies it, and the other one waits for what it
finds.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO

import torch
import transformers

from ml.models.verification.verify import Ways

_log = logging.getLogger(__name__)

_WAIT_SECONDS = 600.0
"""Longer than a verification takes, unless its process was stopped."""

_PAUSE_SECONDS = 0.1


def load_or_verify(digest: str, device: torch.device, dtype: torch.dtype, verify: Callable[[], Ways]) -> Ways:
    """What is on disk about a model, or what `verify` finds, which is then kept there.

    Args:
        digest: of the model's files.
    """
    path = _folder() / f"{_key(digest, device, dtype)}.json"
    known = _read(path)
    if known is None:
        with _alone(path.with_suffix(".lock")):
            known = _read(path)
            if known is None:
                _log.info("comparing fast ways with the model's own forward; the first time may take minutes on a CPU")
                found = verify()
                _write(path, found)
                return found
    _log.info("verification found at %s", path)
    return known


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, which the kernel takes from a process that ends.

    Where there is none to be had, or another process keeps it for too long, go on without.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    except OSError:
        yield
        return
    with file:
        _wait_for(file)
        yield


def _wait_for(file: IO[bytes]) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    for attempt in itertools.count():
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt == 0:
                _log.info("another process verifies this model; waiting for what it finds")
            if time.monotonic() > deadline:
                return
            time.sleep(_PAUSE_SECONDS)
        except OSError:  # a file system without locks
            return
        else:
            return


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gloss" / "verified"


def _key(digest: str, device: torch.device, dtype: torch.dtype) -> str:
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    parts = (digest, _sources(), torch.__version__, transformers.__version__, device.type, where, str(dtype))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def _sources() -> str:
    """Digest of the code that computes."""
    found = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(path for folder in ("kernels", "models", "runtime") for path in (root / folder).rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _read(path: Path) -> Ways | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        kinds = {field.name: field.type for field in fields(Ways)}
        if record.keys() != kinds.keys() or not all(isinstance(value, (int, float, str)) for value in record.values()):
            return None
        return Ways(**record)
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def _write(path: Path, ways: Ways) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(ways)), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        _log.debug("verification is not kept: %s", error)
