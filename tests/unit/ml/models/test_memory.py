"""Whether a model fits: its weights by their headers, and the memory that there is."""

from __future__ import annotations

import json
import logging
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ml.models.loading
from ml import control_groups
from ml.errors import ModelLoadError, ModelTooLargeError
from ml.models.loading import memory
from ml.models.loading.placement import place
from ml.models.loading.progress import logged_progress

MIB = 1 << 20


def test_weights_are_counted_in_the_type_computed_in(tmp_path: Path) -> None:
    save_file(
        {"a": torch.zeros(10, 3, dtype=torch.float16), "ids": torch.zeros(5, dtype=torch.int64)},
        tmp_path / "1.safetensors",
    )
    save_file({"b": torch.zeros(7, dtype=torch.float32)}, tmp_path / "2.safetensors")
    assert memory.weight_bytes(tmp_path, torch.float32) == 37 * 4 + 40
    assert memory.weight_bytes(tmp_path, torch.bfloat16) == 37 * 2 + 40


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, struct.pack("<Q", 4) + b"{", struct.pack("<Q", 8) + b'{"a": 1}'])
def test_a_damaged_header(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelLoadError, match="damaged"):
        memory.weight_bytes(tmp_path, torch.float32)


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = memory.weight_bytes(tiny_llama, torch.float32)
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    weights = folder / "model.safetensors"
    header = weights.read_bytes()[:8]
    weights.write_bytes(weights.read_bytes()[: 8 + struct.unpack("<Q", header)[0]])  # the header alone
    with pytest.raises(ModelTooLargeError, match=r"take .* in float32 and .* are available on cpu; free") as caught:
        ml.models.loading.load(str(folder), device="cpu", max_bytes=needed - 1)
    assert (caught.value.needed, caught.value.available) == (needed, needed - 1)
    monkeypatch.setattr("ml.models.loading.placement.available_bytes", lambda _: 1000)
    with pytest.raises(ModelTooLargeError) as caught:
        ml.models.loading.load(str(folder), device="cpu", max_bytes=needed)
    assert caught.value.available == 1000
    monkeypatch.undo()
    assert ml.models.loading.load(str(tiny_llama), device="cpu", max_bytes=needed).info.name == "tiny-llama"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 100 MiB left, and no control group that bounds anything."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(control_groups, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path / "cgroup")
    write(tmp_path / "proc/meminfo", f"MemTotal: 9 kB\nMemAvailable:   {100 * 1024} kB\n")
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(folder: Path, limit: str, used: int, idle: int = 0) -> None:
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", f"{used}\n")
    write(folder / "memory.stat", f"anon 1\ninactive_file {idle}\n")


def test_the_machine(system: Path) -> None:
    assert memory.available_bytes(torch.device("cpu")) == 100 * MIB


def test_the_tightest_group_decides(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/outer/inner\n")
    group(system / "cgroup/outer", str(60 * MIB), 50 * MIB, idle=20 * MIB)
    group(system / "cgroup/outer/inner", "max", 10 * MIB)
    assert memory.available_bytes(torch.device("cpu")) == 30 * MIB
    group(system / "cgroup/outer/inner", str(12 * MIB), 10 * MIB)
    assert memory.available_bytes(torch.device("cpu")) == 2 * MIB


def test_a_container_that_sees_its_own_group_as_the_root(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/docker/of-the-outside\n")
    group(system / "cgroup", str(40 * MIB), 10 * MIB)
    assert memory.available_bytes(torch.device("cpu")) == 30 * MIB


def test_the_first_generation_of_groups(system: Path) -> None:
    write(system / "proc/self/cgroup", "7:cpu:/x\n4:memory:/job\n0::/\n")
    folder = system / "cgroup/memory/job"
    write(folder / "memory.limit_in_bytes", str(50 * MIB))
    write(folder / "memory.usage_in_bytes", str(20 * MIB))
    write(system / "cgroup/memory/memory.limit_in_bytes", "9223372036854771712")
    write(system / "cgroup/memory/memory.usage_in_bytes", str(20 * MIB))
    assert memory.available_bytes(torch.device("cpu")) == 30 * MIB


def test_where_nothing_tells_nothing_is_refused(system: Path) -> None:
    (system / "proc/meminfo").unlink()
    assert memory.available_bytes(torch.device("cpu")) is None
    memory.check_capacity("any", 1 << 50, torch.float32, None, "on cpu")


def test_loading_tells_how_far_it_is(tiny_llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AutoModelForCausalLM

    log = logging.getLogger("progress")
    with caplog.at_level(logging.INFO, "progress"), logged_progress(log, "tiny", seconds=0):
        AutoModelForCausalLM.from_pretrained(tiny_llama)
    lines = [record.getMessage() for record in caplog.records]
    total = len(json.loads(header(tiny_llama))) - 1
    assert [line for line in lines if "weights=" in line][-1].startswith(f"model=tiny weights={total - 1}/{total}")
    assert lines[-1].startswith("model=tiny weights read in")


def header(folder: Path) -> bytes:
    with (folder / "model.safetensors").open("rb") as file:
        return file.read(struct.unpack("<Q", file.read(8))[0])


@pytest.mark.parametrize("device", ["cuda:1", "balanced"])
def test_placements_that_do_not_go_with_tensor_parallelism(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.models.loading.placement._checked", torch.device)
    with pytest.raises(ModelLoadError, match="tensor paralle"):
        place(device, ranks=2)


def test_a_model_spread_over_gpus_has_their_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {0: 30, 1: 10}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 80))
    assert place("balanced").available_bytes() == 40
    assert place("auto", ranks=2).available_bytes() == 20, "ranks hold equal parts"
    assert place("auto").available_bytes() == 30
    assert place("auto").dtype == torch.bfloat16
    with pytest.raises(ModelLoadError, match="3 processes need a GPU each"):
        place("auto", ranks=3)
