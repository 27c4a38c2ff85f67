"""How many threads a model gets beside other processes."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ml import control_groups
from ml.threads import FreeCores, give_threads_to_torch, used_seconds


class Machine:
    """Cores whose use a test decides."""

    def __init__(self, cores: int) -> None:
        self.cores = range(cores)
        self.now = self.own = self.others = 0.0

    def free(self) -> FreeCores:
        return FreeCores(self.cores, lambda _: self.own + self.others, lambda: self.own, lambda: self.now)

    def run(self, seconds: float, own: float = 0.0, others: float = 0.0) -> None:
        """Let time pass, in which this process and others keep so many cores busy."""
        self.now += seconds
        self.own += own * seconds
        self.others += others * seconds


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "max_threads", "others", "expected"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.2, 2),  # clients of this server
        (2, 2, 0.5, 1),  # a worker that gets little beside two threads
        (2, 2, 2.0, 1),
        (8, 8, 0.2, 8),
        (8, 8, 1.0, 7),
        (8, 8, 2.9, 5),
        (8, 8, 7.9, 4),  # half of them, whatever others want
        (8, 2, 7.9, 2),
        (3, 3, 3.0, 1),
        (1, 1, 1.0, 1),
    ],
)
def test_threads_are_the_cores_that_others_leave(cores: int, max_threads: int, others: float, expected: int) -> None:
    torch.set_num_threads(max_threads)
    machine = Machine(cores)
    free = machine.free()
    machine.run(1.0, own=cores - others, others=others)
    free.share()
    assert torch.get_num_threads() == expected


def test_threads_come_back_when_others_have_gone() -> None:
    torch.set_num_threads(4)
    machine = Machine(4)
    free = machine.free()
    for others, expected in ((3.0, 2), (1.0, 3), (0.0, 4), (4.0, 2), (0.0, 4)):
        machine.run(0.3, others=others)
        free.share()
        assert torch.get_num_threads() == expected


def test_a_moment_does_not_decide() -> None:
    torch.set_num_threads(2)
    machine = Machine(2)
    free = machine.free()
    machine.run(0.01, others=2.0)
    free.share()
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
def test_what_this_process_uses_is_counted() -> None:
    cores = os.sched_getaffinity(0)
    before, own = used_seconds(cores), time.process_time()
    while used_seconds(cores) - before < 0.05:
        assert time.process_time() - own < 10
    assert used_seconds([]) == 0


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {"cpu.max": "max 100000"}, 4),
        ("0::/", {}, 4),
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "350000 100000"}, 3),  # a fourth thread would stand still for half of the time
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "6400000 100000"}, 4),
        ("0::/pod/container", {"pod/cpu.max": "200000 100000", "pod/container/cpu.max": "max 100000"}, 2),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000"}, 3),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "100000"}, 4),
        ("2:cpuset:/a\n1:cpu:/job", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("0::/\udcff", {"cpu.max": "200000 100000"}, 2),  # a group's name is bytes
        ("0::/pod:1", {"pod:1/cpu.max": "200000 100000"}, 2),
        ("0::/../../outside", {"cpu.max": "200000 100000"}, 2),
        *(
            ("0::/", {"cpu.max": odd}, 4)
            for odd in ("", "200000", "1e5 100000", "200000 0", "²00000 100000", "a b", "\udcff 1")
        ),
        *((odd, {"cpu.max": "200000 100000"}, 4) for odd in ("", "\n", "0", "0:", "0::", "::", "x::/", "\udcff")),
    ],
)
def test_torch_gets_the_cores_that_a_container_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(control_groups, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path / "groups")
    for name, text in {
        "proc/self/cgroup": membership,
        **{f"groups/{name}": text for name, text in files.items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n", errors="surrogateescape")
    torch.set_num_threads(4)
    give_threads_to_torch()
    assert torch.get_num_threads() == expected
    give_threads_to_torch(4)
    assert torch.get_num_threads() == 4


def test_where_nothing_is_known_of_others_torch_keeps_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.threads._STATISTICS", tmp_path / "none")
    torch.set_num_threads(2)
    now = iter((0.0, 1.0, 1.0, 2.0, 2.0))
    free = FreeCores(range(2), clock=lambda: next(now))
    free.share()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("text", "ticks"),
    [
        ("cpu  9 9 9 9 9 9 9\ncpu0 1 2 4 99 99 8 16 9 9 9\ncpu1 32 0 0 9 9 0 0\ncpu2 64 0 0 9 9 0 0\nintr 9\n", 63),
        ("cpu0 1 2 4 99 99 8 16", 31),
        ("cpu7 1 0 0 9 9 0 0\ncpu8 1 0 0 9 9 0 0\n", 0),  # cores that are not this process's, or have other numbers
        ("cpu0 1 2 4 99\ncpu1 1 0 0 9 9 0 0\n", 1),  # too few columns
        ("cpu 1 2 3\ncpufreq 1 2 3\n\n \nnull\0\udcff\ncpu0\n", 0),
        ("cpu0 a b c d e f g\ncpu0 -1 0 0 9 9 0 0\ncpu² 1 1 1 1 1 1 1\n", 0),
        ("", 0),
    ],
)
def test_statistics_of_any_shape_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, ticks: int
) -> None:
    statistics = tmp_path / "stat"
    statistics.write_text(text, errors="surrogateescape")
    monkeypatch.setattr("ml.threads._STATISTICS", statistics)
    assert used_seconds(range(2)) == ticks / os.sysconf("SC_CLK_TCK")


def test_no_statistics_or_clock_end_a_thread() -> None:
    torch.set_num_threads(2)
    used, now = iter((5.0, 0.0, 1e300, 0.0, 0.0)), iter((0.0, 1.0, 1.0, 2.0, 2.0, 1.0, 3.0, 3.0))
    free = FreeCores(range(2), lambda _: next(used), lambda: 0.0, lambda: next(now))
    for expected in (2, 1, 1, 2):  # cores that vanish, cores that appear, time that goes back, and peace
        free.share()
        assert torch.get_num_threads() == expected


def test_whoever_comes_next_in_the_process_gets_all_threads() -> None:
    torch.set_num_threads(2)

    def leave_cores() -> None:
        machine = Machine(2)
        with machine.free() as free:
            machine.run(1.0, others=2.0)
            free.share()
            seen.append(torch.get_num_threads())

    def come_next() -> None:
        seen.append(torch.get_num_threads())

    seen: list[int] = []
    for program in (leave_cores, come_next):
        thread = threading.Thread(target=program)
        thread.start()
        thread.join()
    assert seen == [1, 2]
