"""Explanations of a model that is computed elsewhere: nothing that explains imports torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ml.explain import Run
from ml.result import Cost
from ml.spec import (
    Budget,
    ContextAttribution,
    Continuation,
    ContrastTarget,
    ExplanationSpec,
    GenerationTarget,
    Hierarchical,
    Interactions,
    KernelShap,
    Lime,
    NodeValue,
    Occlusion,
    Prompt,
    Scale,
    ShapleyPermutation,
    SurrogateKind,
    Target,
)
from tests.unit.ml.explain.toys import ToyModel

pytestmark = pytest.mark.processes

TEXT = "the film was not very good and the film was bad"
TARGETS = {
    "the most likely token": Target(),
    "its probability": Target(scale=Scale.PROBABILITY),
    "continuation": Target(Continuation(text="yes and no")),
    "generation": Target(GenerationTarget(3)),
    "contrast": Target(ContrastTarget(Continuation(text="yes"), Continuation(text="no"))),
    "prefix contrast": Target(ContrastTarget(Continuation(text="yes"), Continuation(text="yes and no"))),
}
METHODS = {
    "occlusion": Occlusion(),
    **{surrogate.value: Lime(surrogate) for surrogate in SurrogateKind},
    "KernelSHAP": KernelShap(),
    "permutations": ShapleyPermutation(),
    "interactions": Interactions(),
    "context attribution": ContextAttribution(),
    "hierarchical": Hierarchical(),
    "Owen values": Hierarchical(NodeValue.OWEN),
}


def explain(method: str, target: str) -> str:
    """What a toy's explanation finds, without what it took."""
    asked = ExplanationSpec(Prompt(text=TEXT), METHODS[method], TARGETS[target], budget=Budget(max_evaluations=60))
    *_, update = Run(ToyModel({"good": 2.0, "bad": -1.5}, {("not", "good"): -3.0}), asked)
    assert update.result is not None
    return repr(replace(update.result, cost=Cost()))


_DECIMAL = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?|-?\d+e[-+]\d+")

WITHOUT = """
import json, sys
from importlib.machinery import PathFinder

class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "torch" else super().find_spec(name, path, target)

sys.meta_path[:] = [WithoutTorch if each is PathFinder else each for each in sys.meta_path]
from tests.unit.ml.explain.test_without_torch import METHODS, TARGETS, explain
print(json.dumps({f"{method}, {target}": explain(method, target) for method in METHODS for target in TARGETS}))
try:
    import torch
except ModuleNotFoundError:
    sys.exit(0)
sys.exit("torch is there")
"""


@pytest.fixture(scope="module")
def without() -> dict[str, str]:
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_perturbations_explains_it(method: str, target: str, without: dict[str, str]) -> None:
    # In another process numpy may sum in another order, and a fit makes more of the last digits.
    words, numbers = parts(explain(method, target))
    found_words, found_numbers = parts(without[f"{method}, {target}"])
    assert found_words == words
    assert found_numbers == pytest.approx(numbers, rel=1e-5, abs=1e-9)


def parts(result: str) -> tuple[list[str], list[float]]:
    """The words of a result, and its numbers."""
    return _DECIMAL.split(result), [float(number) for number in _DECIMAL.findall(result)]
