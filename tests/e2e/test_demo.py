"""The stack on one machine: it comes up, gives a tour, and leaves nothing behind however it ends."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.process import Child
from deploy.redis import RedisNotFoundError, find_executable
from tests.fixtures.processes import CHECKOUT, environment, processes_with, wait_until_none

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]

SERVING = "Ctrl-C stops it"
StackFactory = Callable[..., Child]


@pytest.fixture(autouse=True)
def _a_redis_server_is_installed() -> None:
    try:
        find_executable()
    except RedisNotFoundError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def token() -> str:
    """What all processes of this test have in their environment."""
    return uuid.uuid4().hex


@pytest.fixture
def stack(tmp_path: Path, token: str, tiny_llama: Path) -> Iterator[StackFactory]:
    """Start `python -m deploy.stack` on a tiny model, free ports and this test's state folder."""
    started: list[Child] = []

    def start(*, wait: bool = True, **env: str) -> Child:
        command = [sys.executable, "-m", "deploy.stack", "--state", str(tmp_path / "state")]
        full = environment(TESTS_TOKEN=token, **{"GLOSS_MODEL": str(tiny_llama), **env})
        child = Child("stack", command, tmp_path / f"stack-{len(started)}.log", full)
        started.append(child)
        if wait:
            wait_for(child, SERVING)
        return child

    yield start
    for child in started:
        child.stop(30)
        print(child.output())
    assert wait_until_none("TESTS_TOKEN", token) == []


def wait_for(child: Child, text: str, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while text not in child.output():
        child.check()
        assert time.monotonic() < deadline, f"no {text!r} after {timeout:.0f} s:\n{child.output()}"
        time.sleep(0.05)


def wait_for_end(child: Child, timeout: float = 60) -> int:
    deadline = time.monotonic() + timeout
    while (code := child.exit_code()) is None:
        assert time.monotonic() < deadline, f"still running after {timeout:.0f} s:\n{child.output()}"
        time.sleep(0.05)
    return code


def check_metrics(pages: list[str]) -> None:
    """Both pages answer, and pass promtool where it is installed."""
    assert len(pages) == 2
    for page in pages:
        with urllib.request.urlopen(page, timeout=10) as reply:  # noqa: S310 - our own address
            text = reply.read()
        if promtool := shutil.which("promtool"):
            checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
            assert checked.returncode == 0, checked.stderr.decode()


def test_the_demo_gives_a_tour_and_ends(tmp_path: Path, token: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "deploy.demo", "--once", "--state", str(tmp_path)],
        cwd=CHECKOUT,
        env=environment(TESTS_TOKEN=token),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for part in ("gloss next", "gloss attention", "occlusion ·", "lime ·", "grpc", "/metrics"):
        assert part in result.stdout.lower(), f"no {part} in:\n{result.stdout}"
    assert "all of this stops" in result.stdout.strip().splitlines()[-1]
    assert wait_until_none("TESTS_TOKEN", token) == []


@pytest.mark.slow
def test_ctrl_c_stops_everything_and_a_second_start_works(stack: StackFactory, token: str) -> None:
    first = stack()
    assert re.search(r"gRPC +127\.0\.0\.1:[1-9]\d+", first.output())
    check_metrics(re.findall(r"http://\S+/metrics", first.output()))

    rival = stack(wait=False)
    assert wait_for_end(rival) == 2
    assert f"process {first.pid} already runs" in rival.output()

    os.kill(first.pid, signal.SIGINT)
    assert wait_for_end(first) == 0, first.output()
    assert processes_with("TESTS_TOKEN", token) == []

    second = stack()
    os.kill(second.pid, signal.SIGTERM)
    assert wait_for_end(second) == 0, second.output()
    assert processes_with("TESTS_TOKEN", token) == []


@pytest.mark.slow
def test_a_killed_stack_takes_its_processes_along(stack: StackFactory, token: str) -> None:
    os.kill(stack().pid, signal.SIGKILL)
    assert wait_until_none("TESTS_TOKEN", token, timeout=30) == []


@pytest.mark.slow
def test_a_process_that_dies_ends_the_stack_with_its_last_lines(stack: StackFactory, token: str) -> None:
    child = stack()
    server = next(line for line in processes_with("TESTS_TOKEN", token) if "-m server" in line)
    os.kill(int(server.partition(":")[0]), signal.SIGKILL)
    assert wait_for_end(child) == 1
    assert "the server was ended by SIGKILL; its last lines" in child.output()
    assert processes_with("TESTS_TOKEN", token) == []


@pytest.mark.parametrize("variable", ["GLOSS_PORT", "GLOSS_METRICS_PORT", "GLOSS_WORKER_METRICS_PORT"])
def test_a_taken_port_is_a_clear_error(stack: StackFactory, variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        child = stack(wait=False, **{variable: port})
        assert wait_for_end(child) == 2
    assert port in child.output()
    assert variable in child.output()


def test_a_setting_that_is_not_allowed_names_its_variable(stack: StackFactory) -> None:
    child = stack(wait=False, GLOSS_PORT="seventy")
    assert wait_for_end(child) == 2
    assert "GLOSS_PORT" in child.output()
