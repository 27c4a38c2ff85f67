"""Services of docker-compose.yml that are up, and how tests reach them."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from deploy.probe import NotServingError
from tests.fixtures.processes import CHECKOUT

PORTS = ("GLOSS_PORT", "GLOSS_METRICS_PORT", "GLOSS_WORKER_METRICS_PORT", "GLOSS_PROMETHEUS_PORT")


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


def environment(**own: str) -> dict[str, str]:
    """No setting of the caller's shell, and free ports of this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GLOSS_")}
    return {**kept, **{name: free_port() for name in PORTS}, **own}


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
        """HOST:PORT of this machine."""
        return f"127.0.0.1:{self.env[variable]}"

    def gloss(self, *arguments: str) -> str:
        """What a command of the client prints."""
        done = subprocess.run(
            [sys.executable, "-m", "gloss", *arguments],
            cwd=CHECKOUT,
            env={**self.env, "GLOSS_ADDRESS": self.at("GLOSS_PORT")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def prometheus(self, path: str) -> Any:
        return json.loads(fetch(f"http://{self.at('GLOSS_PROMETHEUS_PORT')}/api/v1/{path}"))["data"]
