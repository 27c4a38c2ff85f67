"""`gloss/v1` is what the contract generates."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, str]:
    """Every source below a folder."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".py", ".pyi")]
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_regenerating_changes_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, CHECKOUT / "proto/generate.py", "--out", tmp_path], check=True, timeout=60)
    fresh, committed = contents(tmp_path / "gloss/v1"), contents(CHECKOUT / "gloss/v1")
    assert sorted(fresh) == sorted(committed), "run `make proto`"
    stale = [name for name in fresh if fresh[name] != committed[name]]
    assert not stale, "run `make proto`"


def test_stubs_exist_for_services_only() -> None:
    stubs = {name for name in contents(CHECKOUT / "gloss/v1") if name.endswith("_pb2_grpc.py")}
    assert stubs == {"inference_service_pb2_grpc.py", "explanation_service_pb2_grpc.py"}


def test_the_dependencies_are_as_new_as_the_generated_code() -> None:
    declared = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    minimum = dict(line.split(">=") for line in declared)
    stub = (CHECKOUT / "gloss/v1/inference_service_pb2_grpc.py").read_text(encoding="utf-8")
    messages = (CHECKOUT / "gloss/v1/common_pb2.py").read_text(encoding="utf-8")
    made_by_grpc = re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", stub)
    made_by_protoc = re.search(r"Protobuf Python Version: ([\d.]+)", messages)
    assert made_by_grpc
    assert minimum["grpcio"] == made_by_grpc[1]
    assert made_by_protoc
    assert minimum["protobuf"] == made_by_protoc[1]
