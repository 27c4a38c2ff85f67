"""The client as a user imports it: from the environment in which the tests run, and from any folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from gloss.connection import DEFAULT_ADDRESS

CHECKOUT = Path(__file__).parents[3]


def test_the_readmes_example_runs_from_the_folder_around_the_clone(address: str, tmp_path: Path) -> None:
    (tmp_path / "gloss").symlink_to(CHECKOUT, target_is_directory=True)
    found = re.search(r"```python\n(.*?)```", (CHECKOUT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    example = found[1].replace(DEFAULT_ADDRESS, address)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")

    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (["example.py"], ["-c", example]):
        ended = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{ended.stderr}\nIs this checkout installed as the Makefile installs it?"
        assert "' Paris' 0.700" in ended.stdout
