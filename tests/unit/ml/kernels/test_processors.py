"""Every weight on every processor has one rule, and what is measured becomes the rule it says."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.linear import CLASSES, ROWS, SHAPES, Times, fastest, keep, rules, way_of, ways, write
from ml.kernels import processors
from ml.kernels.processors import OWN_WAY, TABLE, Rule, is_known, processor_kind, rule_for, table

NUMELS = [1, *(size + more for size in (2**16, 2**19, 2**21, 2**30) for more in (-1, 0, 1))]


@pytest.mark.parametrize("kind", table())
def test_each_weight_has_a_rule(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "processor_kind", lambda: kind)
    assert is_known()
    assert {rule_for(numel) for numel in NUMELS} == set(table()[kind])
    sizes = [math.inf if rule.max_numel is None else rule.max_numel for rule in table()[kind]]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == math.inf


@pytest.mark.parametrize("numel", NUMELS)
def test_an_unknown_processor_goes_torchs_own_way(numel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "processor_kind", lambda: "FutureVendor AVX4096")
    assert not is_known()
    assert rule_for(numel) == OWN_WAY


@pytest.mark.parametrize("min_rows", [None, 2])
def test_a_packed_weight_is_for_all_rows(min_rows: int | None) -> None:
    with pytest.raises(ValueError, match="from the first row on"):
        Rule(None, min_rows, packed=True)


@pytest.mark.parametrize(
    ("capability", "amx", "expected"),
    [
        ("AVX512", True, "AMX"),
        ("AVX512", False, "AVX512"),
        ("AVX2", True, "AVX2"),  # as somebody asked of torch by its environment
        ("DEFAULT", False, "DEFAULT"),
        ("SVE256", False, "SVE256"),
    ],
)
def test_the_widest_instruction_set(capability: str, amx: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert processor_kind.__wrapped__().split()[-1] == expected


def measured(*rules: Rule) -> Times:
    """Times of a processor on which these rules are right: other ways take twice as long, or thrice."""
    times = {}
    for inputs, outputs in SHAPES:
        rule = next(rule for rule in rules if rule.holds(inputs * outputs))
        for rows in ROWS:
            found = {"torch": 2.2, "torch, by input": 2.4, "oneDNN, by input": 2.0, "oneDNN, packed": 3.0}
            times[rows, inputs, outputs] = {**found, way_of(rule, rows): 1.0}
    return times


@pytest.mark.parametrize(
    "expected",
    [
        [OWN_WAY],
        [Rule(None, 1, packed=True)],
        [Rule(2**19, 2), Rule(None, 1, packed=True)],
        [Rule(2**21, None), Rule(None, 16)],
        [Rule(2**19, None), Rule(2**21, 256), Rule(None, 4)],
    ],
)
def test_rules_follow_from_times(expected: list[Rule], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = rules(measured(*expected))
    assert found == expected
    copy = tmp_path / TABLE.name
    shutil.copy(TABLE, copy)
    monkeypatch.setattr("benchmarks.linear.processor_kind", lambda: "FutureVendor AVX4096")
    write(found, 2, copy)
    monkeypatch.setattr(processors, "TABLE", copy)
    assert table.__wrapped__() == {**table(), "FutureVendor AVX4096": tuple(expected)}


def test_neighbours_that_agree_are_one_rule() -> None:
    assert rules(measured(*(Rule(size, 16) for size in CLASSES))) == [Rule(None, 16)]


@torch.inference_mode()
def test_each_way_is_timed() -> None:
    measured = ways(3, 16, 24)
    first, *others = (way() for way in measured.values())
    for other in others:
        torch.testing.assert_close(other, first)
    assert all(0 < seconds < math.inf for seconds in fastest(measured, 0).values())


def test_the_fastest_of_all_runs_of_equal_conditions_is_kept(tmp_path: Path) -> None:
    file, shape = tmp_path / "linear.json", (1, 2, 3)
    keep({shape: {"torch": 3e-6, "oneDNN, packed": 5e-6}}, {"threads": 2}, file)
    faster = keep({shape: {"torch": 4e-6, "oneDNN, packed": 2e-6}}, {"threads": 2}, file)
    assert faster[shape] == pytest.approx({"torch": 3e-6, "oneDNN, packed": 2e-6})
    other = {shape: {"torch": 9e-6, "oneDNN, packed": 9e-6}}
    assert keep(other, {"threads": 1}, file) == other
