"""Who may use the processor's cores: in this process the model and nobody beside it, and other processes before it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Self

import torch
from threadpoolctl import threadpool_limits

from ml.control_groups import control_groups, lines

_STATISTICS = Path("/proc/stat")

_CORE = re.compile(r"cpu(\d+) (\d+) (\d+) (\d+) \d+ \d+ (\d+) (\d+)", re.ASCII)
"""A core and its ticks: user, nice, system, two of idleness, interrupts and soft interrupts."""

_QUOTA = re.compile(r"(\d+) ([1-9]\d*)", re.ASCII)
"""The microseconds that a group may use, and in which time."""

_WINDOW_SECONDS = 0.25
"""How often a model's thread looks at what others use; the kernel counts in steps of 0.01 s."""

_SPARE = 0.3
"""So much of a core others may use before it counts as taken: the clients of a busy server use a few tenths."""


def give_threads_to_torch(threads: int | None = None) -> None:
    """Let torch use `threads` threads and numpy one. Default: torch's own choice, but no more than containers allow.

    Torch counts the machine's cores. Where a container may use the time of one core only, two threads use that up in
    half of each tenth of a second and then stand still: a prompt took 72 ms in place of 29.

    After a product, the threads of numpy's BLAS wait busily for the next one. An explainer that solves a small system
    between two batches would so take cores from the model: with two cores, half of its speed.
    """
    torch.set_num_threads(min([torch.get_num_threads(), *_quotas()]) if threads is None else threads)
    threadpool_limits(1, user_api="blas")


def _quotas() -> Iterator[int]:
    """How many whole cores the control groups around this process let it use, of each that bounds it; at least one."""
    for group in control_groups("cpu"):
        names = ["cpu.max"] if group.unified else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        if found := _QUOTA.fullmatch(" ".join(line for name in names for line in group.read(name))):
            yield max(1, int(found[1]) // int(found[2]))


def used_seconds(cores: Collection[int]) -> float:
    """Processor time, in seconds, that all processes have used on `cores` since the machine started; 0 if unknown."""
    found = filter(None, map(_CORE.match, lines(_STATISTICS)))
    ticks = sum(sum(map(int, core.groups()[1:])) for core in found if int(core[1]) in cores)
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_cores() -> Collection[int]:
    """The cores that this process may use."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)


class FreeCores:
    """Gives torch's operations in one thread the cores that other processes leave, and at least half of them.

    The threads of an operation wait for the slowest of them. Where a worker keeps both of two cores busy, a prompt
    takes longer on two threads than on one, and the worker gets less done meanwhile. But half of the cores are always
    taken: others that came first would else keep all of them. Some sums may differ by the rounding of float32 between
    one number of threads and another. Where the kernel has no /proc/stat, nothing changes.

    Torch starts new threads with the number that was set last, in any thread. So leave it as a context manager, which
    restores the number, or whoever comes next in the process gets what was free at the end.
    """

    def __init__(
        self,
        cores: Collection[int] | None = None,
        used: Callable[[Collection[int]], float] = used_seconds,
        own: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to watch; the number of threads that torch has now is the most that it gets.

        Args:
            cores: those that this process may use. Default: as the kernel says.
            used: seconds that all processes have used on cores.
            own: seconds that this process has used.
            clock: seconds that have passed.
        """
        self._max_threads = self._threads = torch.get_num_threads()
        self._cores = _own_cores() if cores is None else cores
        self._used, self._own, self._clock = used, own, clock
        self._since, self._others = self._look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._max_threads)

    def share(self) -> None:
        """Set this thread's number of threads by what others used since the last look, if that was a while ago."""
        if self._clock() - self._since < _WINDOW_SECONDS:
            return
        now, others = self._look()
        taken = (others - self._others) / (now - self._since)
        self._since, self._others = now, others
        cores = len(self._cores)
        threads = max(1, min(self._max_threads, max(int(cores - taken + _SPARE), cores // 2)))
        if threads != self._threads:  # torch throws oneDNN's kernels away each time it is given a number
            torch.set_num_threads(threads)
            self._threads = threads

    def _look(self) -> tuple[float, float]:
        """The time, and the seconds that other processes have used by then."""
        return self._clock(), self._used(self._cores) - self._own()
