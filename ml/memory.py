"""Keeping freed memory, so that each step's large tensors reuse the last step's pages; and memory apart from it."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEPT = 1 << 30


def keep_freed_memory() -> None:
    """Tell glibc to keep up to a gigabyte of what this process frees. For processes that run a model, at their start.

    By default it hands every block of more than a few megabytes back to the system at once, and the next step waits
    while its pages are mapped and zeroed anew: a tenth of the time of training, and a seventh of an explanation's.
    Elsewhere than on glibc this does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory of a tensor's own, in whole pages, which goes back to the system with it. For what stays long.

    Among the heap's short-lived tensors, tensors that come and go at their own times leave gaps that fit nothing: a
    bounded cache would grow without bound.
    """
    numbers = 1
    for size in shape:
        numbers *= size
    if not numbers:
        return torch.empty(*shape, dtype=dtype)
    # Mapped at once where the system can: page by page takes longer than the copy that follows.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
    return torch.frombuffer(mmap.mmap(-1, numbers * dtype.itemsize, flags=flags), dtype=dtype).view(*shape)
