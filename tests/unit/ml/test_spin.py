"""OpenMP's patience, as far as it shows without a clock."""

import os
import subprocess
import sys

import grimp
import pytest

from ml.spin import wait_longer, wait_patiently
from tests.fixtures.processes import CHECKOUT


@pytest.mark.parametrize(("before", "after"), [(None, "3000"), ("7", "7")])
def test_a_variable_that_is_set_stands(monkeypatch: pytest.MonkeyPatch, before: str | None, after: str) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if before:
        monkeypatch.setenv("GOMP_SPINCOUNT", before)
    wait_patiently()
    assert os.environ["GOMP_SPINCOUNT"] == after
    monkeypatch.setenv("GOMP_SPINCOUNT", after)  # so that it is undone


@pytest.mark.parametrize(("before", "after"), [(None, "10000"), ("3000", "10000"), ("7", "7"), ("300000", "300000")])
def test_a_server_waits_longer_unless_its_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", before or "")  # so that it is undone
    if before is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    wait_longer()
    assert os.environ["GOMP_SPINCOUNT"] == after


def programs() -> list[str]:
    """Modules that run by themselves and, themselves or by what they import, torch."""
    packages = ("ml", "server", "worker", "benchmarks", "deploy", "jobs", "gloss")
    graph = grimp.build_graph(*packages, include_external_packages=True)
    found = []
    for path in sorted(path for package in packages for path in (CHECKOUT / package).rglob("*.py")):
        module = ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
        runs = path.name == "__main__.py" or 'if __name__ == "__main__"' in path.read_text()
        if runs and graph.find_shortest_chain(importer=module, imported="torch"):
            found.append(module)
    return found


# Imports one program after the other, as far as torch, and prints those that would come there impatient.
FIND_IMPATIENT = """
import importlib, os, sys

class Reached(BaseException):
    pass

class AtTorch:
    def find_spec(self, name, *_):
        if name == "torch":
            raise Reached

sys.meta_path.insert(0, AtTorch())
for program in sys.argv[1:]:
    os.environ.pop("GOMP_SPINCOUNT", None)
    for module in list(sys.modules):
        if module.split(".")[0] in ("ml", "benchmarks", "server", "worker"):
            del sys.modules[module]
    try:
        importlib.import_module(program)
    except Reached:
        pass
    if "GOMP_SPINCOUNT" not in os.environ:
        print(program)
"""


@pytest.mark.processes
def test_every_program_is_patient_before_it_loads_torch() -> None:
    found = programs()
    assert {"server.__main__", "worker.child", "ml.evaluate", "ml.train.__main__", "benchmarks.train"} <= set(found)
    result = subprocess.run(
        [sys.executable, "-c", FIND_IMPATIENT, *found], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_the_tests_are_patient() -> None:
    code = "import sys, os, tests.conftest; sys.exit('GOMP_SPINCOUNT' not in os.environ or 'torch' in sys.modules)"
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=env, check=False).returncode == 0
