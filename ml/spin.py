"""How long the model's threads wait busily for each other."""

from __future__ import annotations

import os

_TURNS = "3000"


def wait_patiently() -> None:
    """Let OpenMP's threads sleep after some microseconds of waiting; a variable that is set already stands.

    Importing `ml` calls it; what imports torch before that must call it first.

    By default they spin for milliseconds. On a machine with cores to spare that is harmless. Where another process runs
    on one of two cores, each of a forward's hundreds of operations spins until the kernel moves the thread that it
    waits for: 1.3 s instead of 0.03 s, measured for 136 tokens through the shipped transformer. The price on an idle
    machine: short prompts, one at a time, take up to a tenth longer. Set `GOMP_SPINCOUNT=10000` where nothing else uses
    the cores; docs/performance.md has figures. GNU's runtime, which torch brings along on Linux, reads this once,
    when it is loaded.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)
