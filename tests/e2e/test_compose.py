"""docker-compose.yml for real: the image is built, everything comes up, and a client walks through it."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from deploy.probe import NotServingError, check_grpc, check_http
from deploy.stack import EXPLANATIONS
from tests.fixtures.processes import CHECKOUT

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

SERVICES = ("redis", "server", "worker", "prometheus")


def compose_command() -> list[str]:
    """The compose program: what COMPOSE says, else whichever is installed."""
    if own := os.environ.get("COMPOSE"):
        return shlex.split(own)
    for command in (["docker", "compose"], ["podman-compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            version = subprocess.run([*command, "version"], capture_output=True, check=False)
            if version.returncode == 0:
                return command
    pytest.skip("no docker compose or podman-compose")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def wait_for(check: Callable[[], object], timeout: float) -> None:
    """Until `check` no longer raises."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            check()
            return
        except (NotServingError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 - our own address
        return reply.read().decode()


@dataclass(frozen=True)
class Deployment:
    """What is up, and at which ports of this machine."""

    compose: list[str]
    env: dict[str, str]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.compose, *arguments], cwd=CHECKOUT, env=self.env, text=True, check=check, stdout=subprocess.PIPE
        )

    def within(self, service: str, *command: str) -> str:
        """What a command prints in a service's container."""
        return self.run("exec", "-T", service, *command).stdout.strip()

    def at(self, variable: str) -> str:
        return f"127.0.0.1:{self.env[variable]}"

    def prometheus(self, path: str) -> Any:
        return json.loads(fetch(f"http://{self.at('GLOSS_PROMETHEUS_PORT')}/api/v1/{path}"))["data"]


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    ports = ("GLOSS_PORT", "GLOSS_METRICS_PORT", "GLOSS_WORKER_METRICS_PORT", "GLOSS_PROMETHEUS_PORT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GLOSS_")}
    env = {**kept, **{name: free_port() for name in ports}}
    up = Deployment([*compose_command(), "-p", f"gloss-test-{os.getpid()}"], env)
    try:
        up.run("up", "-d", "--build", *SERVICES)
        # Health checks are not waited for: not every implementation of compose runs them.
        wait_for(lambda: check_grpc(up.at("GLOSS_PORT"), EXPLANATIONS), timeout=300)
        yield up
    finally:
        print(up.run("logs", check=False).stdout)
        up.run("down", "-v", check=False)


def test_a_client_walks_through_it_and_both_pages_count_its_jobs(deployment: Deployment) -> None:
    env = {**deployment.env, "GLOSS_ADDRESS": deployment.at("GLOSS_PORT")}
    tour = subprocess.run(
        [sys.executable, "-m", "gloss", "tour"], cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False
    )
    assert tour.returncode == 0, tour.stdout + tour.stderr

    server = fetch(f"http://{deployment.at('GLOSS_METRICS_PORT')}/metrics")
    assert 'grpc_method="CreateExplanation"' in server
    worker = fetch(f"http://{deployment.at('GLOSS_WORKER_METRICS_PORT')}/metrics")
    assert "gloss_" in worker


def test_nobody_is_root(deployment: Deployment) -> None:
    for service in ("server", "worker"):
        assert deployment.within(service, "id", "-u") == "10001"


def test_the_health_checks_commands_pass(deployment: Deployment) -> None:
    deployment.within("server", "python", "-m", "deploy.probe", "127.0.0.1:50051")
    deployment.within("worker", "python", "-m", "deploy.probe", "http://127.0.0.1:9465/metrics")
    assert deployment.within("redis", "redis-cli", "ping") == "PONG"
    assert deployment.within("redis", "redis-cli", "config", "get", "appendonly").split() == ["appendonly", "yes"]


def test_prometheus_scrapes_both_and_holds_the_rules(deployment: Deployment) -> None:
    wait_for(lambda: check_http(f"http://{deployment.at('GLOSS_PROMETHEUS_PORT')}/-/ready"), timeout=60)

    def both_are_up() -> None:
        targets = {
            target["labels"]["job"]: target["health"] for target in deployment.prometheus("targets")["activeTargets"]
        }
        assert targets == {"gloss-server": "up", "gloss-worker": "up"}

    wait_for(both_are_up, timeout=60)
    assert [group["name"] for group in deployment.prometheus("rules")["groups"]] == ["gloss"]
