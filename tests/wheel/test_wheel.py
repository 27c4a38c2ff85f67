"""What `pip install gloss` gives: the wheel, in an environment that holds its dependencies and nothing else of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parents[2]
CONTRACT = {path.relative_to(CHECKOUT / "proto").as_posix(): path for path in CHECKOUT.glob("proto/gloss/v1/*.proto")}

SCRIPT = '''
"""What a user writes."""

import datetime
from typing import assert_type

import gloss
from gloss import v1

with gloss.Client() as client:
    reply = client.next_token("The capital of France is", top_k=3)
    assert_type(reply, v1.NextTokenResponse)
    for prediction in reply.predictions:
        assert_type(prediction, v1.NextTokenPrediction)
        assert_type([each.text for each in prediction.top], list[str])
    for step in client.generate("Once upon a time"):
        assert_type(step.token.log_probability, float)

    why = client.explain("The capital of France is", "lime", target=" Paris")
    assert_type([each.attribution for each in why.result.attributions], list[float])
    assert_type(why.create_time.ToDatetime(), datetime.datetime)
    assert_type(why.HasField("error"), bool)
    assert_type(why.state, v1.ExplanationState)
    assert_type([each.prompt_preview for each in client.list()], list[str])
'''

MISTAKE = """
import gloss

with gloss.Client() as client:
    print(client.next_token("hello").predictions[0].likeliest)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools leaves files behind, and takes them into the next wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    for name in ("gloss", "proto"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    subprocess.run(command, check=True, cwd=folder)
    [built] = folder.glob("gloss-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel, what it depends on, and mypy."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin/python"
    command = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, "mypy"]
    subprocess.run([*command, "-c", CHECKOUT / "requirements.lock"], check=True, cwd=folder)
    return interpreter


def test_the_wheel_holds_the_contract(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name: archive.read(name) for name in archive.namelist() if name.endswith(".proto")}
    assert CONTRACT
    assert shipped == {name: path.read_bytes() for name, path in CONTRACT.items()}


def test_the_installed_package_hands_out_the_contract(python: Path, tmp_path: Path) -> None:
    command = [python, "-m", "gloss.protos"]
    logged = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert len(logged) == 1, "the contract and what it imports lie in one folder, site-packages"
    assert all((Path(logged[0]) / name).is_file() for name in CONTRACT)
    subprocess.run([*command, "copied"], cwd=tmp_path, check=True)
    copied = {path.relative_to(tmp_path / "copied").as_posix() for path in tmp_path.rglob("*.proto")}
    assert copied == {*CONTRACT, "google/api/field_behavior.proto", "google/api/resource.proto"}


def test_the_command_runs(python: Path, tmp_path: Path) -> None:
    shown = subprocess.run(
        [python.with_name("gloss"), "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "explain" in shown.stdout


def test_a_type_checker_sees_the_replies(python: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "mistake.py").write_text(MISTAKE, encoding="utf-8")
    check = [python, "-m", "mypy", "--strict", "--disallow-any-expr"]
    typed = subprocess.run([*check, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert typed.returncode == 0, typed.stdout
    wrong = subprocess.run([*check, "mistake.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert '"NextTokenPrediction" has no attribute "likeliest"' in wrong.stdout
