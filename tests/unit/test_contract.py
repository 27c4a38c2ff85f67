"""The checks of the contract: what breaks its users is refused, what adds to it is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gloss import protos

PROTO = Path(__file__).parents[2] / "proto"

BREAKS = {
    "a field's type": ("int32 page_size = 1;", "string page_size = 1;"),
    "a field's number": ("string page_token = 2;", "string page_token = 9;"),
    "a field's name": ("string page_token = 2;", "string token = 2;"),
    "a field that is gone": ("  string page_token = 2;\n", ""),
    "an enum value that is gone": ("  EXPLANATION_STATE_CANCELLED = 5;\n", ""),
    "a method that is gone": ("rpc GetExplanation(GetExplanationRequest) returns (Explanation);", ""),
    "a stream that is none": ("returns (stream WatchExplanationResponse)", "returns (WatchExplanationResponse)"),
}
ADDS = {
    "a field": ("  string page_token = 2;\n", "  string page_token = 2;\n  // More.\n  bool more = 900;\n"),
    "an enum value": ("_CANCELLED = 5;", "_CANCELLED = 5;\n  // Put off.\n  EXPLANATION_STATE_DEFERRED = 6;"),
    "a comment": ("// An explanation and its progress.", "// Anything else."),
}
UGLY = {
    "a name in another style": ("string page_token = 2;", "string page_token = 2;\n  // More.\n  bool evenMore = 900;"),
    "a prefix that is missing": ("_CANCELLED = 5;", "_CANCELLED = 5;\n  // Put off.\n  DEFERRED = 6;"),
}


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the contract's folder whose baseline is the contract as it is."""
    folder = tmp_path_factory.mktemp("contract") / "proto"
    shutil.copytree(PROTO, folder, ignore=shutil.ignore_patterns("__pycache__"))
    assert contract(folder, "baseline").returncode == 0
    return folder


@pytest.fixture
def proto(unchanged: Path, tmp_path: Path) -> Path:
    """Another such copy, to be changed."""
    return shutil.copytree(unchanged, tmp_path / "proto")


def contract(folder: Path, action: str) -> subprocess.CompletedProcess[str]:
    """Run one of the actions on a contract."""
    command = [sys.executable, PROTO / "contract.py", action, "--proto", folder]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def change(folder: Path, old: str, new: str) -> None:
    """Change the contract in one place."""
    path = folder / "gloss/v1/explanation_service.proto"
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1
    path.write_text(source.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("kind", BREAKS)
def test_a_break_is_refused(proto: Path, kind: str) -> None:
    change(proto, *BREAKS[kind])
    refused = contract(proto, "check")
    assert refused.returncode == 1
    assert "explanation_service.proto" in refused.stdout
    assert "make contract-baseline" in refused.stderr


def test_a_break_that_is_meant_becomes_the_baseline(proto: Path) -> None:
    change(proto, *BREAKS["a field that is gone"])
    assert contract(proto, "baseline").returncode == 0
    assert contract(proto, "check").returncode == 0


@pytest.mark.parametrize("kind", ADDS)
def test_what_adds_to_it_is_fine(proto: Path, kind: str) -> None:
    change(proto, *ADDS[kind])
    accepted = contract(proto, "check")
    assert accepted.returncode == 0, accepted.stdout


@pytest.mark.parametrize("kind", UGLY)
def test_another_style_is_refused(proto: Path, kind: str) -> None:
    change(proto, *UGLY[kind])
    refused = contract(proto, "check")
    assert refused.returncode == 1
    assert "explanation_service.proto" in refused.stdout
    assert not refused.stderr


def test_a_copy_has_all_that_a_compiler_needs(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    subprocess.run([sys.executable, "-m", "gloss.protos", tmp_path / "protos"], check=True, timeout=60)
    sources = [path.relative_to(tmp_path / "protos") for path in (tmp_path / "protos").rglob("gloss/v1/*.proto")]
    assert len(sources) == len(list((PROTO / protos.PACKAGE).glob("*.proto"))) > 0
    compile_ = [sys.executable, "-m", "grpc_tools.protoc", "-I", tmp_path / "protos", f"--python_out={tmp_path}"]
    subprocess.run([*compile_, *sources], check=True, timeout=60)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    refused = subprocess.run(
        [sys.executable, "-m", "gloss.protos", file / "protos"], capture_output=True, text=True, check=False, timeout=60
    )
    assert refused.returncode == 2
    last = refused.stderr.splitlines()[-1]
    assert str(file / "protos") in last
    assert last.endswith(": Not a directory")


def test_the_folders_have_all_that_a_compiler_needs(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    logged = subprocess.run(
        [sys.executable, "-m", "gloss.protos"], capture_output=True, text=True, check=True, timeout=60
    )
    folders = [f"-I{folder}" for folder in logged.stdout.splitlines()]
    compile_ = [sys.executable, "-m", "grpc_tools.protoc", *folders, f"--python_out={tmp_path}"]
    subprocess.run([*compile_, "gloss/v1/explanation_service.proto"], check=True, timeout=60)
