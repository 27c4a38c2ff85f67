"""Whether a model fits into memory, checked before it is loaded: the kernel's own answer is to kill somebody.

What weights need is in the headers of their files. What there is, the device reports; on a CPU it is the least of what
the machine has left and what the control groups of this process allow, which is how containers are bounded.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator
from pathlib import Path

import torch

from ml.control_groups import control_groups, lines
from ml.errors import ModelLoadError, ModelTooLargeError

_log = logging.getLogger(__name__)

_PROC = Path("/proc")

_FLOATING = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
_OTHER = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}  # and one byte for the rest
_LONGEST_HEADER = 100 << 20
_UNBOUNDED = 1 << 60
"""The first generation of control groups says "no limit" by a number beyond every machine."""


def weight_bytes(folder: Path, dtype: torch.dtype) -> int:
    """Bytes that the weights of a model's folder take once they are loaded and computed with in `dtype`.

    Raises:
        ModelLoadError: a file of weights is damaged.
    """
    return sum(_bytes_of(path, dtype.itemsize) for path in sorted(folder.glob("*.safetensors")))


def available_bytes(device: torch.device) -> int | None:
    """Bytes that `device` has left for a model; None where it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    return min((*_machine(), *_control_groups()), default=None)


def check_capacity(name: str, needed: int, dtype: torch.dtype, available: int | None, where: str) -> None:
    """Raise `ModelTooLargeError` where `needed` bytes of weights exceed the `available` ones."""
    _log.info("model=%s weights_bytes=%d dtype=%s available_bytes=%s (%s)", name, needed, dtype, available, where)
    if available is not None and needed > available:
        raise ModelTooLargeError(name, needed, available, str(dtype).removeprefix("torch."), where)


def _bytes_of(path: Path, itemsize: int) -> int:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        total = 0
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                stored = _FLOATING.get(tensor["dtype"])
                size = end - begin
                total += size // stored * itemsize if stored else size
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ModelLoadError(f"the weights of {path} are damaged ({error}); fetch them again") from error
    return total


def _machine() -> Iterator[int]:
    for line in lines(_PROC / "meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _control_groups() -> Iterator[int]:
    """What this process's groups, and those around them, have left. A file in the page cache does not count as used."""
    for group in control_groups("memory"):
        if group.unified:
            limit, used, cache = "memory.max", "memory.current", "inactive_file"
        else:
            limit, used, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        largest, now = group.number(limit), group.number(used)
        if largest is not None and now is not None and largest < _UNBOUNDED:
            idle = [line.split()[1] for line in group.read("memory.stat") if line.split()[0] == cache]
            yield max(0, largest - now + sum(map(int, idle)))
