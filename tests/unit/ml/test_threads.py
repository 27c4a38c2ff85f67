"""How many threads a model gets beside other processes."""

import os
import sys
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
        (8, 2, 4.0, 2),  # enough is left
        (8, 2, 7.0, 1),
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
    for others, expected in ((3.0, 1), (1.0, 3), (0.0, 4), (4.0, 1), (0.0, 4)):
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
        (tmp_path / name).write_text(f"{text}\n")
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
