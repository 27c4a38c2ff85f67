"""A foreign client works unchanged: Node, with the contract as its only knowledge."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from gloss import protos

FOLDER = Path(__file__).parent / "node"
PROMPT = "The capital of France is"
INSTALL_SECONDS = 90


@pytest.fixture(scope="session")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's script in a folder of its own, beside its packages."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "client.js"):
        shutil.copy(FOLDER / name, folder)
    install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install the client's packages within {INSTALL_SECONDS} s")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install the client's packages: {done.stderr.strip()[-300:]}")
    protos.copy(folder / "protos")
    return folder / "client.js"


def test_a_node_client_gets_a_token_and_an_explanation(node_client: Path, stack: str) -> None:
    command = ["node", node_client, stack, node_client.with_name("protos"), PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)

    top = seen["next"]["predictions"][0]["top"]
    assert len(top) == 5
    assert top[0]["probability"] >= top[-1]["probability"] > 0
    assert all(bytes(token["bytes"]["data"]).decode(errors="replace") == token["text"] for token in top)
    assert seen["next"]["usage"]["prompt_tokens"] == seen["next"]["predictions"][0]["usage"]["prompt_tokens"] > 0
    assert seen["next"]["timings"]["model_duration"]["nanos"] > 0
    assert seen["cost"]["name"] == ""
    assert seen["name"].startswith("explanations/")
    assert "spec" not in seen["final"]
    assert seen["final"]["progress"]["tokens_planned"] == seen["cost"]["progress"]["tokens_planned"] > 0
    assert [one["prompt_preview"] for one in seen["listed"] if one["name"] == seen["name"]] == [PROMPT]
    assert seen["states"][-1] == "EXPLANATION_STATE_SUCCEEDED"
    assert [part["text"] for part in seen["final"]["result"]["attributions"]] == PROMPT.split()
    assert seen["final"]["result"]["trust"]["verdict"] != "TRUST_VERDICT_UNSPECIFIED"
    assert seen["refusal"]["code"] == 3
    assert "empty or blank" in seen["refusal"]["details"]
