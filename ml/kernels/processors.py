"""Which library multiplies float32 on which processor: a table, measured beforehand by `python -m benchmarks.linear`.

MKL, to which torch hands such products, is fast on Intel's processors and slow on AMD's; oneDNN is fast on both, but
not for every shape. So `processors.json` says by vendor and instruction set from how many rows on oneDNN wins, for
weights of a size and below. Nothing is timed when a model is loaded: equal calls on one machine give equal bits. A
processor that the table does not know takes torch's own way.
"""

from __future__ import annotations

import functools
import json
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

TABLE = Path(__file__).with_name("processors.json")


@dataclass(frozen=True)
class Rule:
    """How linear layers of one size multiply.

    Attributes:
        max_numel: numbers of the largest weight that this holds for; None for any.
        min_rows: rows of a product from which on oneDNN computes it, and torch's own way below; None for never.
        packed: whether the weight is laid out as oneDNN multiplies it. Torch cannot read that, so oneDNN has all rows.
    """

    max_numel: int | None
    min_rows: int | None
    packed: bool = False

    def __post_init__(self) -> None:
        """Refuse what no layer can do."""
        if self.packed and self.min_rows != 1:
            raise ValueError(f"a packed weight is oneDNN's from the first row on, not from {self.min_rows}")

    def holds(self, numel: int) -> bool:
        """Whether this is about weights of `numel` numbers."""
        return self.max_numel is None or numel <= self.max_numel


OWN_WAY = Rule(None, None)
"""Torch's."""


def rule_for(numel: int) -> Rule:
    """The first rule of this machine's processor that holds for a weight of `numel` numbers."""
    return next(each for each in table().get(processor_kind(), (OWN_WAY,)) if each.holds(numel))


def is_known() -> bool:
    """Whether this machine's processor is in the table."""
    return processor_kind() in table()


@functools.cache
def table() -> dict[str, tuple[Rule, ...]]:
    """Rules by kind of processor, for small weights first. The last of each holds for any size."""
    entries = json.loads(TABLE.read_text(encoding="utf-8"))
    return {kind: tuple(Rule(**each) for each in entry["rules"]) for kind, entry in entries.items()}


@functools.cache
def processor_kind() -> str:
    """Vendor and widest instruction set, as in "GenuineIntel AMX"; the machine's architecture where none is named."""
    return f"{_vendor()} {_instruction_set()}"


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(names, platform.machine())


def _instruction_set() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    if "AVX512" in capability and getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        return "AMX"
    return next((known for known in ("AVX512", "AVX2") if known in capability), capability)
