"""Child processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.process import Child, StartError
from tests.fixtures.processes import CHECKOUT, processes_with, wait_until_none

READY_THEN_WAIT = "import signal; print('ready grpc=h:1 metrics=h:2', flush=True); signal.pause()"
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', 'x=1', flush=True)\n"
    "while True: signal.pause()"
)


def python(code: str, log: Path, **env: str) -> Child:
    return Child("child", [sys.executable, "-c", code], log, {**os.environ, **env})


def test_ready_line_is_parsed_and_sigterm_ends_it(tmp_path: Path) -> None:
    child = python(READY_THEN_WAIT, tmp_path / "log")
    assert child.wait_ready(20) == {"grpc": "h:1", "metrics": "h:2"}
    assert child.exit_code() is None
    assert child.stop(20)
    assert child.exit_code() == -signal.SIGTERM


def test_a_child_that_dies_first_shows_its_code_and_last_lines(tmp_path: Path) -> None:
    child = python("import sys; print('the reason'); sys.exit(2)", tmp_path / "log")
    with pytest.raises(StartError, match=r"exit code 2(.|\n)*the reason") as caught:
        child.wait_ready(20)
    assert caught.value.exit_code == 2
    child.kill()


def test_a_child_that_is_never_ready_is_an_error(tmp_path: Path) -> None:
    child = python("import signal; signal.pause()", tmp_path / "log")
    with pytest.raises(StartError, match="not ready after 0 s"):
        child.wait_ready(0.1)
    child.kill()


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = python(STUBBORN, tmp_path / "log")
    child.wait_ready(20)
    assert not child.stop(0.1)
    assert child.exit_code() == -signal.SIGKILL


def test_a_child_can_be_interrupted_where_the_shell_has_it_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = python(READY_THEN_WAIT, tmp_path / "log")
    finally:
        signal.signal(signal.SIGINT, before)
    child.wait_ready(20)
    os.kill(child.pid, signal.SIGINT)
    child._process.wait(20)
    assert "KeyboardInterrupt" in child.output()


def test_so_can_the_children_of_tests() -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import tests.conftest\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    parent = (
        "import os, sys, signal; from pathlib import Path; from deploy.process import Child\n"
        f"child = Child('child', [sys.executable, '-c', {READY_THEN_WAIT!r}], Path({str(tmp_path / 'log')!r}))\n"
        "child.wait_ready(20); print(child.pid, flush=True); signal.pause()"
    )
    token = tmp_path.name
    env = {**os.environ, "TESTS_TOKEN": token}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, cwd=CHECKOUT, env=env) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().decode().strip()
        assert any(line.startswith(f"{pid}:") for line in processes_with("TESTS_TOKEN", token))
        process.kill()
    assert wait_until_none("TESTS_TOKEN", token) == []
