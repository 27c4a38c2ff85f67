"""Memory of processes that run a model for long: what is freed is kept, and what stays is not looked through."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEPT = 1 << 30
_YOUNGER_COLLECTIONS = 100


def keep_freed_memory() -> None:
    """Tell glibc to keep up to a gigabyte of what this process frees. For processes that run a model, at their start.

    By default it hands every block of more than a few megabytes back to the system at once, and the next step waits
    while its pages are mapped and zeroed again: a tenth of the time of training, and a seventh of an explanation's.
    Elsewhere than on glibc this does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def give_back() -> None:
    """Hand what this process freed and keeps back to the system. It takes some milliseconds, and the next steps wait
    for pages again: for after a rare crowd, not for every day. Elsewhere than on glibc this does nothing.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@contextmanager
def without_collections() -> Iterator[None]:
    """Let Python's garbage collector rest within. For imports: what they make stays, and to look through it again and
    again takes a fifth of the time in which torch and transformers are imported.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def collect_seldom() -> None:
    """Let Python's garbage collector look through all objects a tenth as often. For servers.

    Under load, some hundred thousand objects of calls in progress wait with them, and a full collection took 20 to 50
    ms every few seconds, in which nobody is answered. Most garbage is found when it is young.
    """
    gc.set_threshold(*gc.get_threshold()[:2], _YOUNGER_COLLECTIONS)


def expect_to_stay() -> None:
    """Tell Python's garbage collector that what there is now stays. For processes that run a model, once it is loaded.

    torch and transformers make some 400,000 objects, and a full collection would look through all of them again and
    again: a fifth of a second each time, in which nobody is answered.
    """
    gc.freeze()
