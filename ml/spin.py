"""How long the model's threads wait busily for each other.

By default OpenMP's threads spin for milliseconds. On a machine with cores to spare that is harmless. Where another
process runs on one of two cores, each of a forward's hundreds of operations spins until the kernel moves the thread
that it waits for: 1.3 s instead of 0.03 s, measured for 136 tokens through the shipped transformer. The price of a
short wait on an idle machine: short prompts, one at a time, take a tenth longer. docs/performance.md has figures.

GNU's runtime, which torch brings along on Linux, reads the variable once, when it is loaded. So whatever imports torch
before `ml` must call one of these functions first.
"""

from __future__ import annotations

import os

_VARIABLE = "GOMP_SPINCOUNT"
_SHORT, _LONG = "3000", "10000"


def wait_patiently() -> None:
    """Let OpenMP's threads sleep after some microseconds of waiting; a variable that is set already stands.

    Importing `ml` calls it.
    """
    os.environ.setdefault(_VARIABLE, _SHORT)


def wait_longer() -> None:
    """Let them wait three times as long, unless the variable has a value that is not `wait_patiently`'s.

    For a process that leaves the cores which others use (`ml.threads.FreeCores`): its threads wait in vain until it
    notices, which takes one prompt.
    """
    if os.environ.get(_VARIABLE, _SHORT) == _SHORT:
        os.environ[_VARIABLE] = _LONG
