"""The extra `engine`: server and worker for a served model, in an environment without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.process import Child
from gloss import Client
from tests.fixtures.engine import TestEngine
from tests.fixtures.processes import CHECKOUT, READY_SECONDS, STOP_SECONDS, environment
from tests.fixtures.served import engine, small_model, tokenizer_folder

__all__ = ["engine", "small_model", "tokenizer_folder"]

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with what the extra names, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin/python"
    named = subprocess.run(
        [sys.executable, "deploy/dependencies.py", "engine"], cwd=CHECKOUT, check=True, capture_output=True, text=True
    )
    install = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-c", CHECKOUT / "requirements.lock", *named.stdout.splitlines()], check=True, cwd=folder)
    return interpreter


@pytest.fixture
def served(python: Path, engine: TestEngine, redis_url: str, tmp_path: Path) -> Iterator[Client]:
    """A client of a server, beside a worker, of what the engine serves."""
    settings = environment(GLOSS_MODEL=engine.address, GLOSS_REDIS_URL=redis_url, PYTHONPATH=str(CHECKOUT))
    children: list[Child] = []
    try:
        for name in ("server", "worker"):
            children.append(Child(name, [str(python), "-m", name], tmp_path / f"{name}.log", settings))
        ready = [child.wait_ready(READY_SECONDS) for child in children]
        with Client(ready[0]["grpc"]) as client:
            yield client
    finally:
        stopped = [child.stop(STOP_SECONDS) for child in reversed(children)]
        print(*(child.output() for child in children), sep="\n")
        assert all(stopped)


def test_there_is_no_torch(python: Path) -> None:
    found = subprocess.run(
        [python, "-c", "import torch"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert "No module named 'torch'" in found.stderr


def test_it_predicts_and_explains(served: Client) -> None:
    reply = served.next_token("The king of the old town", top_k=3)
    assert len(reply.predictions[0].top) == 3
    explanation = served.explain("The king of the old town was ill", "lime", max_evaluations=60)
    assert len(explanation.result.attributions) == 8
    assert explanation.result.trust.reasons is not None
