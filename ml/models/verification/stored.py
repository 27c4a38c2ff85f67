"""What verification found, kept on disk, so that a process that starts again does not verify again.

A record holds for the same weights, the same code (Gloss's, torch's and transformers'), device and type of numbers; its
name is a digest of them. What cannot be read or written is verified again, silently.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import torch
import transformers

from ml.models.verification.verify import Ways

_log = logging.getLogger(__name__)


def load_or_verify(digest: str, device: torch.device, dtype: torch.dtype, verify: Callable[[], Ways]) -> Ways:
    """What is on disk about a model, or what `verify` finds, which is then kept there.

    Args:
        digest: of the model's files.
    """
    path = _folder() / f"{_key(digest, device, dtype)}.json"
    if (known := _read(path)) is not None:
        _log.info("verification found at %s", path)
        return known
    _log.info("comparing fast ways with the model's own forward pass; the first time this may take minutes on a CPU")
    found = verify()
    _write(path, found)
    return found


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
