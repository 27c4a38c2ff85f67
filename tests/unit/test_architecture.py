"""The house's layout: who may import whom, and who stays free of torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.processes import CHECKOUT


def test_imports_go_one_way() -> None:
    """The contracts of pyproject.toml, `[tool.importlinter]`."""
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([linter, "--no-cache"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "module", ["gloss", "gloss.cli", "jobs.store", "schema.convert", "worker.__main__", "deploy.stack"]
)
def test_never_loads_torch(module: str) -> None:
    """What the contracts promise of the source, seen in a running interpreter."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"importing {module} loads torch, or fails:\n{result.stderr}"
