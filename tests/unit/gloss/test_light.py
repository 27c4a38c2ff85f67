"""The client stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "redis", "rq", "transformers", "sklearn")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import gloss, gloss.client, gloss.aio, gloss.tensors, gloss.render.html, gloss.cli.tour", HEAVY),
        ("import gloss.v1", (*HEAVY, "grpc", "rich")),
        ("import gloss.cli", (*HEAVY, "grpc", "rich")),
        ("import gloss.client", (*HEAVY, "rich", "click")),
    ],
)
def test_nothing_heavy_is_imported(code: str, absent: tuple[str, ...]) -> None:
    check = f"{code}\nimport sys\nprint(*(name for name in {absent!r} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
